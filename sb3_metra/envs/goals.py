"""Checks of the goals of ``goal_observation``."""

from typing import Any

import numpy as np


def check_place(goal: Any, n_coordinates: int, name: str = "goal") -> np.ndarray:
    """
    Refuse a goal that is not a place.

    :param goal: the given goal
    :param n_coordinates: how many coordinates a place has
    :param name: what it is, for the error
    :return: the place, ``(n_coordinates,)`` float64; a copy
    :raises ValueError: if it has another shape, or is not of finite numbers
    """
    try:
        place = np.array(goal, dtype=np.float64)
    except (TypeError, ValueError):
        place = np.empty(0)
    if place.shape != (n_coordinates,) or not np.isfinite(place).all():
        raise ValueError(f"{name} must be a place, finite numbers of shape ({n_coordinates},), got {goal!r}.")
    return place
