"""The best model so far, kept in a folder with its score beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_metra.common.files import atomic_path, write_json
from sb3_metra.common.inputs import check_folder


class BestModel:
    """
    Keeps the model with the best score as ``best_model.zip``, and what it reached as ``best_model.json``.

    A score that is already in the folder counts, so a second session does not replace a better model, unless it was
    measured in another way.

    :param folder: where to keep it; made if it is missing
    :param measured_with: what scores are measured with, plain values by name; only scores with
        the same values are compared
    :raises ValueError: if the folder cannot be written to, or the score in it cannot be read
    """

    def __init__(self, folder: str | Path, measured_with: Mapping[str, Any]) -> None:
        self.folder = check_folder("best_model_save_path", folder)
        self.model_path, self.score_path = self.folder / "best_model.zip", self.folder / "best_model.json"
        self.measured_with = json.loads(json.dumps(dict(measured_with)))  # as it is read back
        self.metric: str | None = None
        self.score = -1
        if self.score_path.is_file() and self.model_path.is_file():
            self._take_up()

    def _take_up(self) -> None:
        """Go on from the score that lies in the folder."""
        try:
            kept = json.loads(self.score_path.read_text(encoding="utf-8"))
            metric, score, steps, measured_with = (
                kept[k] for k in ("metric", "score", "num_timesteps", "measured_with")
            )
            better = int(score) > -1
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"best_model_save_path must hold the best model's score as {self.score_path.name}, or none, got "
                f"{str(self.score_path)!r}, which cannot be read ({type(error).__name__}: {error})"
            ) from error
        if measured_with != self.measured_with:
            warnings.warn(
                f"{self.model_path} reached {metric} {score}, measured with {measured_with}, not {self.measured_with}: "
                "the two cannot be compared, so the first evaluation replaces it",
                stacklevel=4,
            )
        elif better:
            self.metric, self.score = str(metric), int(score)
            warnings.warn(
                f"{self.model_path} reached {metric} {score} after {steps} steps of an earlier session: only a better "
                "model replaces it",
                stacklevel=4,
            )

    def offer(self, model: Any, metric: str, score: int) -> bool:
        """
        Keep a model if it is the best so far. If it cannot be written, a warning says so, and the next best is tried.

        :param model: an algorithm of SB3
        :param metric: name of the score; scores of different metrics are not compared
        :param score: the more, the better
        :return: whether it was kept
        """
        if metric == self.metric and score <= self.score:
            return False
        kept = {"metric": metric, "score": int(score), "num_timesteps": int(model.num_timesteps)}
        try:
            with atomic_path(self.model_path) as aside:
                model.save(aside)
            write_json(self.score_path, kept | {"measured_with": self.measured_with})
        except OSError as error:
            warnings.warn(
                f"{self.model_path} could not be written, training continues without it: {error}", stacklevel=2
            )
            return False
        self.metric, self.score = metric, int(score)
        return True
