"""Checks of arguments: each refuses what cannot work in one sentence, which names the argument and what came."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_metra.common.arguments import FLAG, choice, instance, integer, number, optional, shorten

_MAX_SEED = 2**32 - 1  # NumPy's old generators, which SB3 seeds, take no larger one


def check_count(name: str, value: Any, low: int = 1) -> int:
    """
    Refuse what is no count.

    :param name: of the argument
    :param value: what came
    :param low: smallest count that works
    :return: the count
    :raises ValueError: if it is no integer, or too small
    """
    return integer(low)(name, value)


def check_seed(name: str, value: Any) -> int | None:
    """
    Refuse what seeds no generator.

    :param name: of the argument
    :param value: what came
    :return: the seed; ``None`` stays ``None``
    :raises ValueError: if it is neither ``None`` nor an integer in [0, 2^32 - 1]
    """
    return optional(integer(0, _MAX_SEED))(name, value)


def check_number(name: str, value: Any, low: float = 0.0, *, inclusive: bool = False) -> float:
    """
    Refuse what is no finite number, or too small.

    :param name: of the argument
    :param value: what came
    :param low: bound from below
    :param inclusive: the bound itself works, too
    :return: the number
    :raises ValueError: if it does not work
    """
    return number(low if inclusive else -math.inf, above=None if inclusive or low == -math.inf else low)(name, value)


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """
    Refuse what is not among the choices.

    :param name: of the argument
    :param value: what came
    :param choices: what works, in the order in which they are named
    :return: the choice
    :raises ValueError: if it is another
    """
    return choice(*choices)(name, value)


def check_flag(name: str, value: Any) -> bool:
    """
    Refuse what is neither true nor false: the string ``"no"`` would be true.

    :param name: of the argument
    :param value: what came
    :return: the flag
    :raises ValueError: if it is another
    """
    return FLAG(name, value)


def check_numbers(name: str, value: Any, ndim: int | None = None) -> np.ndarray:
    """
    Refuse what are no numbers.

    :param name: of the argument
    :param value: what came
    :param ndim: number of axes that it must have; ``None``: any
    :return: the numbers, float64
    :raises ValueError: if something else came, or numbers that are not finite
    """
    try:
        array = np.asarray(value)
        numbers = array.astype(np.float64) if array.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or (ndim is not None and numbers.ndim != ndim) or not np.isfinite(numbers).all():
        axes = "" if ndim is None else f" with {ndim} axes" if ndim != 1 else " with one axis"
        raise ValueError(f"{name} must be finite numbers{axes}, got {shorten(value)}")
    return numbers


def check_mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """
    Refuse what is no dictionary, or an empty one.

    :param name: of the argument
    :param value: what came
    :raises ValueError: if it holds nothing by name
    """
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{name} must be a dictionary with at least one entry, got {shorten(value)}")
    return value


def check_text(name: str, value: Any) -> str:
    """
    Refuse what is no string.

    :param name: of the argument
    :param value: what came
    :raises ValueError: if it is something else
    """
    return instance("a string", str)(name, value)


def check_folder(name: str, path: Any) -> Path:
    """
    Make a folder where there is none, and refuse one that nothing can be written to.

    :param name: of the argument
    :param path: what came
    :return: the folder
    :raises ValueError: if it cannot be made or written to
    """
    folder = check_path(name, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{name} must be a folder that can be written to, got {str(path)!r}: {error.strerror}"
        ) from error
    return folder


def check_path(name: str, path: Any) -> Path:
    """
    Refuse what is no path.

    :param name: of the argument
    :param path: what came
    :return: the path
    :raises ValueError: if it is neither a string nor a path, or empty
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"{name} must be a path, got {path!r}")
    return Path(path)


def check_place(name: str, value: Any) -> np.ndarray:
    """
    Refuse what is no place.

    :param name: of what came, such as ``info["coordinates"]``
    :param value: what came
    :return: (k,), float64
    :raises ValueError: if it is no vector of finite numbers
    """
    try:
        place = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        place = np.empty(0)
    if place.ndim != 1 or not place.size or not np.isfinite(place).all():
        raise ValueError(f"{name} must be finite numbers of shape (k,), such as [x, y], got {value!r}")
    return place


def check_tasks(name: str, value: Any) -> dict[str, bool]:
    """
    Refuse what does not say which tasks are achieved.

    :param name: of what came, such as ``info["tasks"]``
    :param value: what came
    :return: whether each task is achieved, by its name
    :raises ValueError: if it is no dictionary of true and false by name
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(task, str) and achieved in (True, False) for task, achieved in value.items()
    ):
        raise ValueError(f"{name} must say by name which tasks are achieved, such as {{'kettle': True}}, got {value!r}")
    return {task: bool(achieved) for task, achieved in value.items()}


def path_of(word: str) -> Path:
    """
    A word of the command line as a path; the empty one, as of a shell's unset variable, does not mean this folder.

    :param word: the word
    :raises argparse.ArgumentTypeError: if it is empty
    """
    if not word:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(word)
