"""The best model so far, its score beside it, and what happens if it cannot be written."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from sb3_metra import METRA
from sb3_metra.evaluation import SkillEvalCallback
from sb3_metra.evaluation.best_model import BestModel
from tests.toys import goal_points, tiny_model

WITH = {"n_skills": 4, "seed": 0}


class Saving:
    """A model whose file holds its number of steps."""

    def __init__(self, num_timesteps: int = 1) -> None:
        self.num_timesteps = num_timesteps

    def save(self, path: Path) -> None:
        path.write_text(str(self.num_timesteps))


def offer(best: BestModel, steps: int, score: int, metric: str = "policy_state_coverage") -> bool:
    return best.offer(Saving(steps), metric, score)


def test_the_best_is_kept_with_its_score(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "a" / "b", WITH)
    assert [offer(best, 10, 5), offer(best, 20, 9), offer(best, 30, 9), offer(best, 40, 7)] == [
        True,
        True,
        False,
        False,
    ]
    assert best.model_path.read_text() == "20"
    assert json.loads(best.score_path.read_text()) == {
        "metric": "policy_state_coverage",
        "score": 9,
        "num_timesteps": 20,
        "measured_with": WITH,
    }
    assert sorted(file.name for file in best.folder.iterdir()) == ["best_model.json", "best_model.zip"]


def test_a_second_session_keeps_a_better_model(tmp_path: Path) -> None:
    offer(BestModel(tmp_path, WITH), 100, 9)
    with pytest.warns(UserWarning, match="reached policy_state_coverage 9 after 100 steps of an earlier session"):
        second = BestModel(tmp_path, WITH)
    assert not offer(second, 200, 8)
    assert second.model_path.read_text() == "100"
    assert offer(second, 300, 10)
    assert second.model_path.read_text() == "300"


def test_scores_that_were_measured_otherwise_do_not_compare(tmp_path: Path) -> None:
    offer(BestModel(tmp_path, WITH), 100, 9)
    with pytest.warns(UserWarning, match="the two do not compare"):
        other = BestModel(tmp_path, WITH | {"n_skills": 8})
    assert offer(other, 200, 3)
    assert offer(other, 300, 1, metric="task_coverage")
    assert other.model_path.read_text() == "300"


def test_a_score_without_its_model_does_not_count(tmp_path: Path) -> None:
    offer(BestModel(tmp_path, WITH), 100, 9)
    (tmp_path / "best_model.zip").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert offer(BestModel(tmp_path, WITH), 200, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"score": 3}', '{"metric": "a", "score": "many"}'])
def test_a_torn_score_is_named(tmp_path: Path, content: str) -> None:
    offer(BestModel(tmp_path, WITH), 100, 9)
    (tmp_path / "best_model.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"best_model_save_path must hold .* got .*best_model.json', which cannot be read"
    ):
        BestModel(tmp_path, WITH)


def test_a_folder_that_cannot_be_written_to_is_refused_at_construction(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1/models")):
        with pytest.raises(ValueError, match="best_model_save_path must be a folder that can be written to, got"):
            SkillEvalCallback(goal_points(1), best_model_save_path=path)
    with pytest.raises(ValueError, match="best_model_save_path must be a path, got 3"):
        SkillEvalCallback(goal_points(1), best_model_save_path=3)  # type: ignore[arg-type]


def test_training_goes_on_if_the_model_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the first evaluation, and has room again at the second one."""
    save, calls = METRA.save, []

    def full_at_first(self: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, path)

    monkeypatch.setattr(METRA, "save", full_at_first)
    monkeypatch.setattr(
        "sb3_metra.evaluation.callbacks.skill_metrics", lambda *args, **kwargs: {"policy_state_coverage": 7}
    )
    callback = SkillEvalCallback(goal_points(1, 5), eval_freq=8, n_skills=2, best_model_save_path=tmp_path)
    model = tiny_model(goal_points(1, 5))
    with pytest.warns(UserWarning, match="could not be written, training goes on without it: .*No space left"):
        model.learn(24, callback)
    assert model.num_timesteps == 24
    assert len(calls) == 2
    assert METRA.load(tmp_path / "best_model").num_timesteps == 16
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best_model.json", "best_model.zip"]


def test_a_callback_takes_up_the_score_of_an_earlier_one(tmp_path: Path) -> None:
    def callback() -> SkillEvalCallback:
        return SkillEvalCallback(goal_points(1, 5), eval_freq=8, n_skills=2, best_model_save_path=tmp_path)

    first = callback()
    tiny_model(goal_points(1, 5)).learn(16, first)
    with pytest.warns(UserWarning, match="of an earlier session"):
        second = callback()
    assert second.best_coverage == first.best_coverage > 0
    before = (tmp_path / "best_model.zip").read_bytes()
    second.best_model.score = 1_000  # type: ignore[union-attr]
    tiny_model(goal_points(1, 5)).learn(16, second)
    assert (tmp_path / "best_model.zip").read_bytes() == before
