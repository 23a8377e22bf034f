"""What is asked of a goal that ``goal_observation`` turns into an observation; each environment draws its own."""

from typing import Any

import numpy as np


def check_place(goal: Any, n_coordinates: int, name: str = "goal") -> np.ndarray:
    """
    Refuse a goal that is no place.

    :param goal: What came as the goal
    :param n_coordinates: How many coordinates a place has
    :param name: What it is, for the error
    :return: The place, ``(n_coordinates,)`` float64; the caller's own
    :raises ValueError: where it has another shape, or is not of finite numbers
    """
    try:
        place = np.array(goal, dtype=np.float64)
    except (TypeError, ValueError):
        place = np.empty(0)
    if place.shape != (n_coordinates,) or not np.isfinite(place).all():
        raise ValueError(f"{name} must be a place, finite numbers of shape ({n_coordinates},), got {goal!r}.")
    return place
