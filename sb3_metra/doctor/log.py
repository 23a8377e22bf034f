"""The log of a run: the newest part of a column, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sb3_metra.doctor.findings import CannotTell
from sb3_metra.evaluation.runs import curve

MIN_LINES = 4  # of a log that a trend is read from


class RunLog:
    """
    The columns of a run's log.

    :param columns: what :func:`~sb3_metra.evaluation.runs.read_log` returns; ``None``: there is no log
    """

    def __init__(self, columns: Mapping[str, np.ndarray] | None) -> None:
        self.columns = None if columns is None else dict(columns)

    def values(self, name: str) -> np.ndarray:
        """
        A column from the first line to the last, without the lines that do not hold it.

        :param name: of the column, such as ``"dual_lambda"``
        :return: (n,), at least :data:`MIN_LINES`
        :raises CannotTell: if there are fewer
        """
        if self.columns is None:
            raise CannotTell("no log was given")
        try:
            values = curve(self.columns, name)[1]
        except ValueError:
            raise CannotTell(f"the log has no column {name}") from None
        if len(values) < MIN_LINES:
            raise CannotTell(f"the log has {len(values)} lines with {name}, and a trend needs {MIN_LINES}")
        return values

    def tail(self, name: str) -> np.ndarray:
        """
        The last quarter of a column, at least :data:`MIN_LINES` lines of it.

        :param name: of the column
        """
        values = self.values(name)
        return values[-max(MIN_LINES, len(values) // 4) :]

    def in_words(self, name: str, sentence: str) -> str:
        """
        The median of a column's tail as the end of a sentence; empty if the log does not hold it.

        :param name: of the column
        :param sentence: with a place for the number
        """
        try:
            return f"; {sentence.format(f'{np.median(self.tail(name)):.2g}')}"
        except CannotTell:
            return ""
