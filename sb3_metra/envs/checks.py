"""Checks of arguments of environments: one sentence that names the argument, what came and what is expected."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, smallest: int) -> None:
    """
    Refuse anything but an integer that is large enough.

    :param name: name of the argument
    :param value: the given value
    :param smallest: the smallest integer that is allowed
    :raises ValueError: for anything else
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < smallest:
        raise ValueError(f"{name} must be an integer of at least {smallest}, got {value!r}.")


def is_number(value: Any) -> bool:
    """
    Return whether something is a finite number.

    :param value: the given value
    """
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and bool(-math.inf < value < math.inf)
    )


def check_number(name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf) -> None:
    """
    Refuse anything but a finite number that is large enough.

    :param name: name of the argument
    :param value: the given value
    :param above: what it must be greater than
    :param at_least: what it must not be less than
    :raises ValueError: for anything else
    """
    if not is_number(value) or value <= above or value < at_least:
        limit = (
            f" above {above:g}" if above > -math.inf else f" of at least {at_least:g}" if at_least > -math.inf else ""
        )
        raise ValueError(f"{name} must be a finite number{limit}, got {value!r}.")


def check_range(name: str, value: Any) -> None:
    """
    Refuse anything but two numbers, the lower first.

    :param name: name of the argument
    :param value: the given value
    :raises ValueError: for anything else
    """
    is_pair = isinstance(value, tuple | list | np.ndarray) and len(value) == 2
    if not is_pair or not all(isinstance(x, int | float | np.number) for x in value) or not value[0] < value[1]:
        raise ValueError(f"{name} must be two numbers, the lower first, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """
    Refuse anything but True and False; "no" would count as true.

    :param name: name of the argument
    :param value: the given value
    :raises ValueError: for anything else
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_picture(render_mode: Any, width: Any, height: Any, modes: Collection[str] = ("rgb_array",)) -> None:
    """
    Refuse arguments that no picture can be drawn with.

    :param render_mode: one of the modes, or ``None``
    :param width: width of a picture in pixels
    :param height: height of a picture in pixels
    :param modes: modes that the environment can render
    :raises ValueError: for anything else
    """
    if render_mode is not None and not (isinstance(render_mode, str) and render_mode in modes):
        names = ", ".join(f'"{mode}"' for mode in modes)
        raise ValueError(f"render_mode must be None or {names}, got {render_mode!r}.")
    for name, value in (("width", width), ("height", height)):
        check_integer(name, value, 1)


def check_action(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """
    Refuse an action of another shape, or one that is not of numbers.

    :param action: the given action
    :param shape: the shape of an action
    :return: the action in float64
    :raises ValueError: for anything else
    """
    numbers = action if type(action) is np.ndarray and action.shape == shape else np.asarray(action)
    if numbers.shape != shape:
        raise ValueError(f"action must have shape {shape}, got {numbers.shape}.")
    numbers = numbers.astype(np.float64)
    if not np.vdot(numbers, numbers) < np.inf and not np.isfinite(numbers).all():
        raise ValueError(f"action must be finite numbers, got {action!r}.")
    return numbers
