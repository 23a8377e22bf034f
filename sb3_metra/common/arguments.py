"""
Kinds of arguments: what a value must be, in words, and how it is read.

Wherever a number is expected, NumPy's scalars count as Python's, and a bool is no number. A whole number may be written
as a float, as in ``1e5``. A string counts if it is a number with an exponent, because YAML 1.1 reads ``1e-3`` as one.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_WITH_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Check:
    """
    What a value must be.

    :param expected: in words, to end "must be" with
    :param read: takes a value and returns what to go on with; raises an error for one that does not fit
    """

    expected: str
    read: Callable[[Any], Any]

    def __call__(self, name: str, value: Any, suffix: str = "") -> Any:
        """
        Read a value.

        :param name: the argument's name
        :param value: what came
        :param suffix: where it was given, to end an error with
        :raises ValueError: if it does not fit, in a sentence
        """
        try:
            return self.read(value)
        except (TypeError, ValueError, OverflowError, AttributeError):
            raise ValueError(f"{name} must be {self.expected}, got {shorten(value)} {suffix}".rstrip()) from None


def shorten(value: Any, length: int = 200) -> str:
    """
    A value as one line of an error.

    :param value: anything
    :param length: the most characters to keep
    """
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"an array of shape {value.shape}"
    try:
        text = value.__name__ if isinstance(value, type) else " ".join(repr(value).split())
    except Exception:  # an object that a file describes may lack anything
        text = f"an incomplete {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."


def number(low: float = -math.inf, high: float = math.inf, *, above: float | None = None) -> Check:
    """
    A finite number.

    :param low: the smallest that is allowed
    :param high: the largest that is allowed
    :param above: what it must exceed
    """

    def read(value: Any) -> float:
        result = _as_float(value)
        _require(math.isfinite(result) and low <= result <= high and (above is None or result > above))
        return result

    if above is not None:
        expected = f"a finite number greater than {above:g}"
    elif math.isfinite(high):
        expected = f"a number between {low:g} and {high:g}"
    else:
        expected = f"a finite number of at least {low:g}" if math.isfinite(low) else "a finite number"
    return Check(expected, read)


def integer(low: int, high: float = math.inf) -> Check:
    """
    A whole number.

    :param low: the smallest that is allowed
    :param high: the largest that is allowed
    """

    def read(value: Any) -> int:
        is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        result = int(value) if is_int else int(_as_float(value))
        _require((is_int or result == _as_float(value)) and low <= result <= high)
        return result

    expected = f"an integer of at least {low}" if high == math.inf else f"an integer between {low} and {high}"
    return Check(expected, read)


def choice(*options: Any) -> Check:
    """
    One of a few values.

    :param options: the values
    """
    words = [f'"{x}"' if isinstance(x, str) else str(x) for x in options]

    def read(value: Any) -> Any:
        _require(any(type(value) is type(x) and value == x for x in options))
        return value

    return Check(" or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words), read)


def instance(expected: str, *classes: type) -> Check:
    """
    An object of some class.

    :param expected: the classes, in words
    :param classes: the classes
    """

    def read(value: Any) -> Any:
        _require(isinstance(value, classes))
        return value

    return Check(expected, read)


def subclass(expected: str, *classes: type) -> Check:
    """
    A class that derives from one of some classes.

    :param expected: the classes, in words
    :param classes: the classes
    """

    def read(value: Any) -> Any:
        _require(isinstance(value, type) and issubclass(value, classes))
        return value

    return Check(expected, read)


def either(first: Check, *others: Check) -> Check:
    """
    A value that one of several checks reads; the first that does, decides.

    :param first: a check
    :param others: further ones
    """
    checks = (first, *others)

    def read(value: Any) -> Any:
        for check in checks[:-1]:
            try:
                return check.read(value)
            except (TypeError, ValueError, OverflowError):
                continue
        return checks[-1].read(value)

    return Check(", or ".join(check.expected for check in checks), read)


def optional(check: Check) -> Check:
    """
    None, or what a check reads.

    :param check: of everything but ``None``
    """
    return Check(f"{check.expected}, or None", lambda value: None if value is None else check.read(value))


def _flag(value: Any) -> bool:
    _require(isinstance(value, (bool, np.bool_)))
    return bool(value)


def _units(value: Any) -> list[int]:
    _require(isinstance(value, (list, tuple, np.ndarray)))
    return [integer(1).read(units) for units in value]


def _named(value: Any) -> dict[str, Any]:
    _require(isinstance(value, Mapping) and all(isinstance(name, str) for name in value))
    return dict(value)


FLAG = Check("True or False", _flag)
POSITIVE = number(above=0)
UNITS = Check("a list of positive integers", _units)
ARGUMENTS = Check("a dictionary of arguments by name", _named)
PATH = instance("a path", str, os.PathLike)


def check_table(table: Mapping[str, Check], values: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """
    Read what a table knows; the rest stays as it is.

    :param table: checks by name
    :param values: values by name
    :param suffix: where they were given, to end an error with
    :return: all values, as they are to be used
    :raises ValueError: for the first that does not fit
    """
    return {name: table[name](name, x, suffix) if name in table else x for name, x in values.items()}


def check_names(name: str, values: Mapping[str, Any], function: Callable[..., Any], own: Collection[str] = ()) -> None:
    """
    Refuse arguments that a function does not take.

    :param name: of the dictionary that holds the arguments
    :param values: arguments by name
    :param function: a class, whose bases are asked for what its constructor hands on, or a function
    :param own: arguments that the caller sets
    :raises ValueError: for the first that it does not take, with the name that was meant
    """
    known = parameter_names(function)
    for key in values:
        if key in own:
            raise ValueError(f"{name} must not hold {key!r}, which is set by the algorithm, got {shorten(values[key])}")
        if known is not None and key not in known:
            close = difflib.get_close_matches(key, sorted(set(known) - set(own)), n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name} must hold arguments of {function.__name__}, got {key!r}{hint}")


def parameter_names(function: Callable[..., Any]) -> set[str] | None:
    """
    The arguments that a function takes by name.

    :param function: a class, or a function
    :return: their names; ``None`` if it takes any
    """
    names: set[str] = set()
    for x in inspect.getmro(function) if isinstance(function, type) else (function,):
        if isinstance(function, type) and "__init__" not in vars(x):
            continue
        parameters = inspect.signature(x.__init__ if isinstance(function, type) else x).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


def full_signature(cls: type) -> inspect.Signature:
    """
    A class's signature with ``**kwargs`` spelled out: the keyword-only arguments of the parent that takes them.

    :param cls: a class, whose parents have such a signature already
    """
    owners = [x for x in cls.__mro__ if "__init__" in vars(x)]
    own = list(inspect.signature(vars(owners[0])["__init__"]).parameters.values())[1:]
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(own):
        return inspect.Signature(own)
    names = {p.name for p in named}
    inherited = inspect.signature(owners[1]).parameters.values()
    return inspect.Signature([*named, *(p for p in inherited if p.kind is p.KEYWORD_ONLY and p.name not in names)])


def _as_float(value: Any) -> float:
    if isinstance(value, str):
        _require(_WITH_EXPONENT.fullmatch(value) is not None)
    else:
        _require(isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool))
    return float(value)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
