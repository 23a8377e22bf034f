"""The best model so far, its score beside it, and what happens if it cannot be written."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.envs  # noqa: F401  registers the environments
from sb3_metra import METRA
from sb3_metra.common.checkpoint import RunCheckpointCallback
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
    with pytest.warns(UserWarning, match="the two cannot be compared"):
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
    with pytest.warns(UserWarning, match="could not be written, training continues without it: .*No space left"):
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


class Noting(SkillEvalCallback):
    """Remembers all metrics of each evaluation, by steps."""

    def __init__(self, folder: Path) -> None:
        point = make_vec_env("sb3_metra/PointMass-v0", 1)
        super().__init__(point, 80, n_skills=2, queue_episodes=2, best_model_save_path=folder, max_episode_steps=30)
        self.rows: dict[int, dict[str, float]] = {}

    def evaluate(self) -> int:
        coverage = super().evaluate()
        self.rows[self.num_timesteps] = self.last_metrics
        return coverage


class Killed(BaseException):
    """What stops a run without a word."""


class Kill(BaseCallback):
    """Kills the run at a step."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= 330:
            raise Killed
        return True


@pytest.mark.filterwarnings("ignore:.*of an earlier session")
def test_a_run_that_goes_on_has_the_scores_of_one_that_never_stopped(tmp_path: Path) -> None:
    """It is killed at step 330, within the second episode of each environment, and goes on from step 288."""

    def training() -> Any:
        return make_vec_env("sb3_metra/PointMass-v0", 2, seed=5)

    whole, first, second = (Noting(tmp_path / name) for name in ("whole", "part", "part"))
    tiny_model(training()).learn(480, [RunCheckpointCallback(48, tmp_path / "a"), whole])
    with pytest.raises(Killed):
        tiny_model(training()).learn(480, [RunCheckpointCallback(48, tmp_path / "b"), first, Kill()])
    model = METRA.resume(tmp_path / "b", training(), device="cpu")
    assert model.num_timesteps == 288
    model.learn(480 - 288, second, reset_num_timesteps=False)
    assert list(whole.rows) == [80, 160, 240, 320, 400, 480]
    assert list(second.rows) == [320, 400, 480]
    for step, row in (first.rows | second.rows).items():
        assert row == whole.rows[step], step
    assert second.best_coverage == whole.best_coverage
    scores = [json.loads((tmp_path / name / "best_model.json").read_text()) for name in ("whole", "part")]
    assert scores[0] == scores[1]
