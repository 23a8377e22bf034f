"""Arrays of a buffer: gathered and moved to the device; by name, cut to what is filled, checked, and grown again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th

Signature = tuple[tuple[int, ...], np.dtype]
"""Shape and type of an array."""


def map_arrays(function: Callable[[Any], Any], arrays: Any) -> Any:
    """
    Apply a function to an array, or to each of a dictionary.

    :param function: takes an array
    :param arrays: an array, or arrays by key
    :return: what it returned, by key if they were
    """
    return {key: function(x) for key, x in arrays.items()} if isinstance(arrays, dict) else function(arrays)


def flatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """
    Dictionaries of arrays within a dictionary as one, with names such as ``observations/camera``.

    :param arrays: arrays, or dictionaries of arrays, by name
    :return: arrays by name
    """
    flat: dict[str, Any] = {}
    for name, held in arrays.items():
        flat |= {f"{name}/{key}": x for key, x in held.items()} if isinstance(held, dict) else {name: held}
    return flat


def unflatten(arrays: Mapping[str, Any], name: str, like: Any) -> Any:
    """
    The inverse of :func:`flatten` for one of the names.

    :param arrays: arrays by name
    :param name: one that was given to ``flatten``
    :param like: an array, or a dictionary with the same keys
    :return: the array, or the dictionary of arrays
    """
    return {key: arrays[f"{name}/{key}"] for key in like} if isinstance(like, dict) else arrays[name]


def take(stored: np.ndarray, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
    """
    The same as ``stored[rows, envs]``, in half the time.

    :param stored: (rows, n_envs, ...)
    :param rows: (batch,)
    :param envs: (batch,)
    :return: a copy, (batch, ...)
    """
    return stored.reshape(-1, *stored.shape[2:]).take(rows * stored.shape[1] + envs, axis=0)


def to_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """
    Move an array without waiting for the GPU, which a copy from ordinary host memory does.

    On a CPU it is copied, too: where an array lies in memory changes the last bits of products with it, and NumPy lets
    chance decide, while PyTorch begins every tensor at a multiple of 64 bytes.

    :param array: nobody else's, since a GPU may read it later
    :param device: where to
    :return: a tensor in memory of its own
    """
    tensor = th.as_tensor(array)
    if device.type == "cpu":
        return tensor.clone()
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def grow(filled: np.ndarray, n_rows: int) -> np.ndarray:
    """
    :param filled: the first rows
    :param n_rows: number of rows
    :return: a copy, followed by rows of zeros
    """
    array = np.zeros((n_rows, *filled.shape[1:]), filled.dtype)
    array[: len(filled)] = filled
    return array


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Signature], what: str) -> None:
    """
    Refuse arrays from a file that do not fit.

    :param arrays: arrays by name
    :param expected: shape and type by name
    :param what: what they are, to begin an error with
    :raises ValueError: if one is missing or superfluous, has another shape or type, or is not finite
    """
    if arrays.keys() != expected.keys():
        wrong = sorted(arrays.keys() ^ expected.keys())
        raise ValueError(f"{what} must hold {', '.join(sorted(expected))}, got others: {', '.join(wrong)}")
    for name, (shape, dtype) in expected.items():
        x = arrays[name]
        if (x.shape, x.dtype) != (shape, dtype):
            raise ValueError(f"{what} must hold {name} of shape {shape} and type {dtype}, got {x.shape} and {x.dtype}")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"{what} must hold finite {name}, got NaN or infinity")
