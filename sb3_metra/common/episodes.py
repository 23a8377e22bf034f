"""Which rows of a ring of transitions belong to one episode: where it begins, and how many steps of it follow."""

from __future__ import annotations

import numpy as np

_RUNNING = -1  # steps until the end of an episode that has none yet


class Episodes:
    """
    The place of each transition within its episode, beside a ring of rows in which each step takes the next one.

    The oldest rows of a long episode may be overwritten while it goes on; its oldest kept row stands for its first one
    then.

    :param since_start: steps of its episode before each transition, (rows, n_envs)
    :param until_end: steps of its episode after each transition, -1 while it is running, (rows, n_envs)
    :param newest: the last row that was filled; ``None``: there is none
    """

    def __init__(self, since_start: np.ndarray, until_end: np.ndarray, newest: int | None = None) -> None:
        self.since_start, self.until_end = since_start, until_end
        self._age = np.zeros(since_start.shape[1], dtype=np.int64)  # steps of the running episodes so far
        if newest is not None:
            self._age[:] = (since_start[newest] + 1) * (until_end[newest] == _RUNNING)

    def advance(self, row: int) -> None:
        """
        Add a step of each environment: of the running episode if there is one, and the first of a new one otherwise.

        :param row: where it is kept, the one after the last
        """
        if row == 0:  # now and then is enough for an endless episode not to overflow
            np.minimum(self._age, len(self.since_start), out=self._age)
        self.since_start[row] = self._age
        self.until_end[row] = _RUNNING
        self._age += 1

    def end(self, row: int, ended: np.ndarray) -> None:
        """
        End episodes after their newest step.

        :param row: row of the newest step
        :param ended: whether an environment's episode ends there, (n_envs,)
        """
        for env in np.flatnonzero(ended):
            back = np.arange(min(self._age[env], len(self.since_start)))
            self.until_end[row - back, env] = back
        self._age[ended] = 0

    def first(self, rows: np.ndarray, envs: np.ndarray, oldest: int) -> np.ndarray:
        """
        :param rows: rows of transitions, (batch,)
        :param envs: their environments, (batch,)
        :param oldest: the oldest row that is kept
        :return: rows of the first kept transition of their episodes, (batch,)
        """
        n_rows = len(self.since_start)
        return (rows - np.minimum(self.since_start[rows, envs], (rows - oldest) % n_rows)) % n_rows

    def remaining(self, rows: np.ndarray, envs: np.ndarray, newest: int) -> np.ndarray:
        """
        :param rows: rows of transitions, (batch,)
        :param envs: their environments, (batch,)
        :param newest: the newest row
        :return: number of transitions of their episodes after them, so far, (batch,)
        """
        until_end = self.until_end[rows, envs]
        return np.where(until_end == _RUNNING, (newest - rows) % len(self.until_end), until_end)
