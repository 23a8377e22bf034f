"""What comes into ``predict`` beside observations: where episodes begin, and calls without a state."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from sb3_metra.common.arguments import shorten


def read_starts(n: int, episode_start: Any) -> np.ndarray | None:
    """
    Where episodes begin.

    :param n: number of observations
    :param episode_start: a truth value for each, or one for all; ``None``: nowhere
    :return: (n,), booleans; ``None``: nowhere
    :raises ValueError: if they are as many as something else, or no truth values
    """
    if episode_start is None:
        return None
    starts = np.asarray(episode_start)
    flags = starts if starts.dtype == np.bool_ else starts == 1
    if starts.dtype.kind not in "biuf" or starts.shape not in ((), (n,)) or not (flags | (starts == 0)).all():
        raise ValueError(
            f"episode_start must be True or False for each of the {n} observations, got {shorten(episode_start)}"
        )
    return np.broadcast_to(flags, n)


class StateReminder:
    """
    Warns once of a loop that never hands back the state, so that each of its steps follows another skill.

    That is a second call in a row without a state, on as many observations as before, but on others. One call at the
    beginning of each episode, several on one observation, and calls that say that an episode begins, are all right.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None  # observations of the last call, if it had no state
        self._warned = False

    def forget(self) -> None:
        """A call with a state."""
        self._before = None

    def remember(self, observations: Any, starts: np.ndarray | None) -> None:
        """
        A call without one.

        :param observations: an array, or a dictionary of arrays
        :param starts: where episodes begin, (n,), or ``None``
        """
        if self._warned or (starts is not None and starts.all()):
            return
        arrays = observations.values() if isinstance(observations, dict) else [observations]
        before, self._before = self._before, [(x.shape, x.tobytes()) for x in arrays]
        if before is None or before == self._before or [x for x, _ in before] != [x for x, _ in self._before]:
            return
        self._warned, self._before = True, None
        warnings.warn(
            "predict was called again without state, so each step follows another skill: pass on the state that "
            "it returned, as in `action, skill = model.predict(obs, state=skill)`",
            stacklevel=4,
        )
