"""Named quantities of an environment's steps, from the places that it reports, and arithmetic over them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

Quantities = Mapping[str, np.ndarray]
"""Values at each step, (T,), by name."""

_MAX_LENGTH = 200
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "cos": lambda x: np.cos(np.radians(x)),
    "sin": lambda x: np.sin(np.radians(x)),
}


def step_quantities(coordinates: np.ndarray, rate: float | None = None) -> dict[str, np.ndarray]:
    """
    Place and velocity after each step of an episode.

    :param coordinates: places, ``info["coordinates"]`` of T + 1 states, (T + 1, k), where k is at most 3
    :param rate: steps per second; ``None``: velocities are per step
    :return: ``x``, ``y``, ``z``, as many as there are coordinates, after the step; ``vx``, ``vy``, ``vz``; ``speed``;
        and with two coordinates or more ``heading``, degrees from the x axis towards the y axis; each (T,)
    :raises ValueError: if there are no places, or of more than three coordinates
    """
    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or len(places) < 2 or not 1 <= places.shape[1] <= 3:
        raise ValueError(f"coordinates must have shape (T + 1, k) with k from 1 to 3, got {places.shape}")
    names, velocities = "xyz"[: places.shape[1]], np.diff(places, axis=0) * (1.0 if rate is None else rate)
    quantities = {name: places[1:, i] for i, name in enumerate(names)}
    quantities |= {f"v{name}": velocities[:, i] for i, name in enumerate(names)}
    quantities["speed"] = np.linalg.norm(velocities, axis=1)
    if len(names) > 1:
        quantities["heading"] = np.degrees(np.arctan2(velocities[:, 1], velocities[:, 0]))
    return quantities


def parse_expression(text: str, names: Collection[str]) -> Callable[[Quantities], np.ndarray]:
    """
    Read arithmetic over named quantities, such as ``cos(30)*vx + sin(30)*vy``; nothing is evaluated as Python.

    There are numbers, names, ``+ - * /``, brackets, ``abs``, ``sqrt``, and ``cos`` and ``sin`` of degrees.

    :param text: the expression
    :param names: quantities that there are
    :return: from quantities to values, (T,)
    :raises ValueError: if there is anything else in it
    """
    if not isinstance(text, str) or not text.strip() or len(text) > _MAX_LENGTH:
        raise ValueError(f"reward must be an expression of at most {_MAX_LENGTH} characters, got {text!r:.60}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check(tree, names)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "it cannot be read"
        raise ValueError(
            f"reward must be arithmetic over {', '.join(names)}, such as {_example(names)!r}, got {text!r}: {reason}"
        ) from None

    def evaluate(quantities: Quantities) -> np.ndarray:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            values = _evaluate(tree, quantities)
        return np.broadcast_to(np.asarray(values, np.float64), next(iter(quantities.values())).shape)

    return evaluate


def _example(names: Collection[str]) -> str:
    return "cos(30)*vx + sin(30)*vy" if "vy" in names else "-vx"


def _check(node: ast.AST, names: Collection[str]) -> None:
    """Refuse what is no arithmetic over the names."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"there is no {node.id!r}")
        return
    if isinstance(node, (ast.BinOp, ast.UnaryOp)) and type(node.op) in _OPERATORS:
        children = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords or len(node.args) != 1:
            raise ValueError(f"{node.func.id} takes one argument")
        children = node.args
    else:
        raise ValueError(f"{ast.unparse(node)!r} is not among numbers, names, + - * / and {', '.join(_FUNCTIONS)}")
    for child in children:
        _check(child, names)


def _evaluate(node: Any, quantities: Quantities) -> Any:
    if isinstance(node, ast.Constant):
        return np.float64(node.value)  # type: ignore[arg-type]  # a number, as was checked
    if isinstance(node, ast.Name):
        return quantities[node.id]
    if isinstance(node, ast.Call):
        return _FUNCTIONS[node.func.id](_evaluate(node.args[0], quantities))  # type: ignore[attr-defined]
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_evaluate(node.operand, quantities))
    return _OPERATORS[type(node.op)](_evaluate(node.left, quantities), _evaluate(node.right, quantities))
