"""Checks of what comes from outside: arrays that fit their place, in shape, kind and size, before they are cast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_MAGNITUDE = 1e18
"""The largest number that is taken: squares of larger ones overflow in single precision."""

MAX_OBSERVATION = 1e9
"""The largest observation that is learnt from: beyond it, squares of gradients overflow in single precision."""


def as_stored(
    x: npt.ArrayLike,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    suffix: str = "",
    limit: float = MAX_MAGNITUDE,
) -> np.ndarray:
    """
    An array in the type in which it will be stored, if that changes its numbers by no more than rounding.

    :param x: what came
    :param name: its name in an error
    :param shape: the shape it must have; a last axis of length 1 may be missing, as with discrete observations
    :param dtype: the type to store it in: integers, or floats of single precision
    :param suffix: where it comes from, to end an error with
    :param limit: the largest number that is taken
    :return: the same numbers, which may share memory with ``x``
    :raises ValueError: if it has another shape, holds something else than numbers, NaN, infinity, a number beyond
        the limit, or a number that an integer type cannot hold
    """
    array = x if type(x) is np.ndarray and x.shape == shape else _as_array(x, name, shape, suffix)
    kind = array.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {array.dtype} {suffix}".rstrip())
    # one product is four times as fast as asking each number, and false for NaN
    if kind == "f" and not np.vdot(array, array) < limit**2:
        check_magnitude(array, name, suffix, limit)
    if array.dtype == dtype:
        return array
    return _as_integers(array, name, dtype, suffix) if dtype.kind in "iu" else array.astype(dtype)


def check_magnitude(array: np.ndarray, name: str, suffix: str = "", limit: float = MAX_MAGNITUDE) -> None:
    """
    Refuse NaN, infinity, and numbers that are too large.

    :param array: floating-point numbers of any precision
    :param name: their name in an error
    :param suffix: where they come from, to end the error with
    :param limit: the largest number that is taken
    :raises ValueError: if one of them is not finite, or beyond the limit
    """
    if array.size == 0 or (array.min() >= -limit and array.max() <= limit):
        return
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity {suffix}".rstrip())
    largest = array.flat[np.abs(array).argmax()]
    raise ValueError(
        f"{name} must lie within {-limit:g} and {limit:g}, or single precision overflows in learning, got {largest:g} "
        f"{suffix}".rstrip()
    )


def as_flags(x: npt.ArrayLike, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """
    Truth values.

    :param x: booleans, or the numbers 0 and 1
    :param name: their name in an error
    :param shape: the shape that they must have
    :return: booleans, which may share memory with ``x``
    :raises ValueError: if they have another shape, or are anything else
    """
    array = x if type(x) is np.ndarray and x.shape == shape else _as_array(x, name, shape)
    if array.dtype == np.bool_:
        return array
    flags = array == 1
    if array.dtype.kind not in "biuf" or not (flags | (array == 0)).all():
        raise ValueError(f"{name} must be True or False, got {array.tolist()}")
    return flags


def _as_array(x: npt.ArrayLike, name: str, shape: tuple[int, ...], suffix: str = "") -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape}, got parts of different shapes {suffix}".rstrip()) from None
    if array.shape == shape:
        return array
    if array.shape == shape[:-1] and shape[-1] == 1 and len(shape) > 1:
        return array.reshape(shape)
    raise ValueError(f"{name} must have shape {shape}, got {array.shape} {suffix}".rstrip())


def _as_integers(array: np.ndarray, name: str, dtype: np.dtype, suffix: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        integers = array.astype(dtype)
    if (integers != array).any():
        bad = array[integers != array][0]
        raise ValueError(f"{name} must hold whole numbers that fit into {dtype}, got {bad} {suffix}".rstrip())
    return integers
