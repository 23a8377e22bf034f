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


class DeviceCopy:
    """
    A copy of a replay buffer's rows on the GPU that samples go to, if it takes at most a quarter of the free memory.

    Rows are written to host memory alone. Those that are new follow in one go before the next sample.

    :param names: of the buffer's attributes that are copied, arrays or dictionaries of arrays, (rows, n_envs, ...)
    """

    MAX_SHARE = 0.25

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._device: th.device | None = None  # for which it is known whether a copy fits
        self._copies: dict[str, Any] = {}
        self._unsent = 0
        self._index: tuple[Any, Any, Any] = (None, None, None)

    def advance(self) -> None:
        """One more row has been written."""
        self._unsent += 1

    def follow(self, buffer: Any) -> bool:
        """
        Take over what is new.

        :param buffer: the buffer
        :return: whether there is a copy
        """
        if self._device != buffer.device:
            self._begin(buffer)
        if self._copies and self._unsent > 0:
            end, new = buffer.pos or buffer.buffer_size, min(self._unsent, buffer.size())
            parts = [slice(max(end - new, 0), end)]
            if new > end:  # around the end of the ring
                parts.append(slice(buffer.buffer_size - (new - end), None))
            for rows in parts:
                for name in self._names:
                    stored, copies = flatten({name: getattr(buffer, name)}), flatten({name: self._copies[name]})
                    for key, copied in copies.items():
                        copied[rows].copy_(to_device(stored[key][rows], buffer.device))
            self._unsent = 0
        return bool(self._copies)

    def _begin(self, buffer: Any) -> None:
        self._device, self._copies, self._unsent = buffer.device, {}, buffer.size()
        stored = {name: getattr(buffer, name) for name in self._names}
        arrays = flatten(stored).values()
        known = all(
            x.dtype.kind != "u" or x.dtype == np.uint8 for x in arrays
        )  # PyTorch gathers no other unsigned ones
        if known and self.fits(sum(x.nbytes for x in arrays), buffer.device):
            self._copies = {name: map_arrays(self._like, x) for name, x in stored.items()}

    def _like(self, array: np.ndarray) -> th.Tensor:
        return th.empty(array.shape, dtype=th.as_tensor(array[:1]).dtype, device=self._device)

    def fits(self, nbytes: int, device: th.device) -> bool:
        """
        Whether a copy is of use.

        :param nbytes: its size
        :param device: where it would be
        """
        return device.type == "cuda" and nbytes <= self.MAX_SHARE * th.cuda.mem_get_info(device)[0]

    def take(self, name: str, rows: np.ndarray, envs: np.ndarray) -> Any:
        """
        As :func:`take`, on the device.

        :param name: of an attribute that is copied
        :param rows: (batch,)
        :param envs: (batch,)
        """
        if self._index[0] is not rows or self._index[1] is not envs:  # one transfer serves all arrays of a sample
            n_envs = next(iter(flatten(self._copies).values())).shape[1]
            self._index = rows, envs, to_device(rows * n_envs + envs, self._device)  # type: ignore[arg-type]
        index = self._index[2]
        return map_arrays(lambda x: x.flatten(0, 1).index_select(0, index), self._copies[name])


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
