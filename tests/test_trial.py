"""One run of a study: what it logs, how it goes on, and where its environments come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.utils import LinearSchedule

from sb3_metra.collectors import LocalCollectors
from sb3_metra.envs import find_spec
from sb3_metra.study import trial as trial_module
from sb3_metra.study.progress import CPU, STEPS, ProgressLog, read_rows, write_rows
from sb3_metra.study.trial import METHODS, Trial, describe, model_arguments, train
from tests.toys import same, state_of

POINT = "sb3_metra/PointMass-v0"
TINY = {
    "policy": "MlpPolicy",
    "n_envs": 2,
    "train_freq": 100,
    "gradient_steps": 1,
    "learning_starts": 100,
    "batch_size": 16,
    "buffer_size": 1000,
    "policy_kwargs": {"net_arch": [8]},
}
SMALL = Trial("diayn", POINT, 0, 600, TINY, eval_freq=200, eval_episodes=2)


def test_a_log_is_whole_at_any_time_and_forgets_what_will_be_repeated(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / "progress.csv")
    log.write({STEPS: 100, CPU: 1.5, "eval/distance": 2.0, "eval/skills": None}, {"eval/skills": ("stdout", "csv")})
    log.write({STEPS: 200, CPU: 2.5, "train/loss": 3.0}, {})
    assert read_rows(log.path)[1] == {CPU: "2.5", "eval/distance": "", STEPS: "200", "train/loss": "3.0"}
    again = ProgressLog(tmp_path / "progress.csv", until=150)
    again.spent = 2.0
    again.write({STEPS: 250, CPU: 0.25}, {})
    assert [(row[STEPS], row[CPU]) for row in read_rows(log.path)] == [("100", "1.5"), ("250", "2.25")]
    assert ProgressLog(tmp_path / "progress.csv").rows == []  # a run that begins


def test_columns_keep_their_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.csv", [{"b": 1, "a": 2, "c": 3}], ("c",))
    assert (tmp_path / "x.csv").read_text() == "c,a,b\n3,2,1\n"


def test_a_trial_has_a_name_for_files() -> None:
    assert SMALL.name == "diayn_sb3_metra-PointMass-v0_s0"
    assert dataclasses.replace(SMALL, change="wide", env="my.module:Env-v0").name == "diayn_my.module-Env-v0_wide_s0"


def test_settings_are_rl_zoo3s() -> None:
    arguments = model_arguments({"n_envs": 2, "n_timesteps": 1e5, "learning_rate": "lin_1e-3", "gamma": 0.9})
    schedule = arguments.pop("learning_rate")
    assert isinstance(schedule, LinearSchedule)
    assert (schedule(1.0), schedule(0.5)) == (1e-3, 5e-4)
    assert arguments == {"gamma": 0.9}
    assert METHODS["metra"].__name__ == "METRA"
    assert describe(SMALL, "cpu")["settings"] == TINY


class Killed(BaseException):
    """Stands for a signal."""


def test_a_run_goes_on_and_logs_each_evaluation_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = tmp_path / "whole", []
    train(SMALL, whole, on_evaluation=seen.append)
    assert [row["steps"] for row in seen] == [200, 400]
    assert all(row["coverage"] > 0 for row in seen)
    expected = read_rows(whole / "progress.csv")
    assert [row[STEPS] for row in expected] == ["200", "400", "600"]

    def kill(row: dict) -> None:
        if row["steps"] == 400:
            raise Killed

    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        train(SMALL, broken, checkpoint_minutes=1e-9, on_evaluation=kill)
    assert len(read_rows(broken / "progress.csv")) == 2
    resumed = train(SMALL, broken, checkpoint_minutes=1e-9)
    assert 0 < resumed.steps < 600
    actual = read_rows(broken / "progress.csv")
    for row in actual + expected:
        del row[CPU]
    assert actual == expected
    again = train(SMALL, broken, checkpoint_minutes=1e-9)  # the kill came after the last checkpoint
    assert again.steps == 0
    assert (broken / "model.zip").is_file()


@pytest.mark.parametrize("env", [POINT, pytest.param("sb3_metra/HalfCheetah-v0", marks=pytest.mark.slow)])
def test_a_collector_that_is_waited_for_changes_nothing(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a kill."""
    closed: list[bool] = []

    class Local(LocalCollectors):
        def __init__(self, env: Any, n: int, num_cpus: float, max_staleness: int) -> None:
            super().__init__(env, n, max_staleness)

        def close(self) -> None:
            closed.append(True)
            super().close()

    def kill(row: dict) -> None:
        if row["steps"] == length * 4:
            raise Killed

    monkeypatch.setattr(trial_module, "RayCollectors", Local)
    length = find_spec(env).max_episode_steps
    settings = TINY | {"train_freq": length}
    plain = Trial("diayn", env, 0, 6 * length, settings, eval_freq=2 * length, eval_episodes=2)
    trial = dataclasses.replace(plain, settings=settings | {"collectors": {"n": 1, "max_staleness": 0}})
    whole = train(plain, tmp_path / "whole")
    with pytest.raises(Killed):
        train(trial, tmp_path / "killed", checkpoint_minutes=1e-9, on_evaluation=kill)
    resumed = train(trial, tmp_path / "killed", checkpoint_minutes=1e-9)
    assert 0 < resumed.steps < 6 * length
    assert same(state_of(resumed.model), state_of(whole.model))
    assert len(closed) == 2


def test_a_run_without_a_whole_checkpoint_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_000000000200").mkdir(parents=True)
    with pytest.warns(UserWarning, match="starts again, because .* must hold a complete checkpoint"):
        trained = train(dataclasses.replace(SMALL, steps=200), tmp_path)
    assert trained.steps == 200


def test_environments_are_made_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("make_pixel_vec_env", "make_fast_vec_env"):
        monkeypatch.setattr(trial_module, name, lambda env, n, name=name, **kwargs: (name, env, kwargs["env_kwargs"]))
    assert trial_module.make_envs(POINT, 2)[0] == "make_fast_vec_env"
    assert trial_module.make_envs("sb3_metra/QuadrupedPixels-v0", 2)[0] == "make_pixel_vec_env"
