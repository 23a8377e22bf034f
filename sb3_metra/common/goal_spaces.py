"""Goal environments, as Gymnasium-Robotics has them: what is seen, achieved and desired, in a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"
_KEYS = {"observation", ACHIEVED, DESIRED}


def has_goal(keys: Any) -> bool:
    """
    Whether these are observations of a goal environment.

    :param keys: a dictionary of observations, or their space; anything else is none
    """
    return isinstance(keys, (dict, spaces.Dict)) and keys.keys() >= _KEYS


def without_goal(space: spaces.Space) -> spaces.Space:
    """
    What networks see of an observation: in a goal environment all but the desired goal, which no skill knows.

    :param space: observations
    """
    if not isinstance(space, spaces.Dict) or not has_goal(space):
        return space
    return spaces.Dict({key: part for key, part in space.items() if key != DESIRED})


def at_goal(observation: dict[str, Any], goal: Any) -> dict[str, Any]:
    """
    An observation as it would be with a goal achieved: the goal takes the place of what is achieved, also where the
    vector ``observation`` repeats it.

    :param observation: one observation of a goal environment
    :param goal: as ``achieved_goal``
    :return: arrays of its own
    :raises ValueError: if the goal has another shape
    """
    achieved = np.asarray(observation[ACHIEVED])
    if np.shape(goal) != achieved.shape:
        raise ValueError(f"goal must have the shape of achieved_goal, {achieved.shape}, got {goal!r}")
    changed = {key: np.array(x) for key, x in observation.items()}
    goal = np.asarray(goal, achieved.dtype)
    changed[ACHIEVED], changed[DESIRED] = goal.copy(), goal.copy()
    seen = changed["observation"]
    if seen.ndim == achieved.ndim == 1:
        n = len(achieved)
        for i in range(len(seen) - n + 1):
            if np.array_equal(seen[i : i + n], achieved):
                seen[i : i + n] = goal
                break
    return changed
