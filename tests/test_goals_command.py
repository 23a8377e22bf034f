"""``sb3-metra goals``: JSON, a picture, and a sentence for what cannot be."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import cli
from sb3_metra.commands.goals import half_widths_of
from tests.toys import Chores, tiny_model

POINT = "sb3_metra/PointMass-v0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("goals") / "model.zip"
    tiny_model(make_vec_env(POINT)).save(path)
    return str(path)


def test_it_prints_what_it_measured(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "goals.png"
    results = []
    for n_envs in ("3", "8"):
        arguments = [
            "--n-goals",
            "5",
            "--n-envs",
            n_envs,
            "--plot",
            str(picture),
            "--env-kwargs",
            "reset_noise_scale:0.0",
        ]
        assert cli.main(["goals", model, "--env", POINT, *arguments]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert picture.stat().st_size > 1000
    first, again = results
    assert (first["n_goals"], first["range"], first["hold"], first["n_envs"]) == (5, [7.5, 7.5], False, 3)
    assert first["goal_distance"] == pytest.approx(again["goal_distance"], rel=1e-4)  # however many run at once
    names = {"goal_distance", "goal_success_3", "goal_success_1", "goal_staying_time_3", "goal_staying_time_1"}
    assert names < set(first)
    assert all(np.isfinite(first[name]) for name in names)


def test_goals_may_be_tasks(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    env_id = "tests/Chores-v0"
    gym.register(env_id, Chores, max_episode_steps=15)
    try:
        assert cli.main(["goals", model, "--env", env_id, "--n-goals", "5", "--n-envs", "2"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert set(result["goal_success_by_task"]) == {"east", "north"}
        assert result["hold"] is True
        assert 0 <= result["goal_success"] <= 1
        assert cli.main(["goals", model, "--env", env_id, "--no-hold", "--range", "3"]) == 2
        assert "--range and --plot are for goals that are places, but those of this" in capsys.readouterr().err
    finally:
        del gym.registry[env_id]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-goals", "0"], "--n-goals must be an integer of at least 1, got 0"),
        (["--n-envs", "0"], "--n-envs must be an integer of at least 1, got 0"),
        (
            ["--range", "5", "5", "5"],
            "--range must be one width, or one for each of the 2 coordinates of sb3_metra/Point",
        ),
        (["--range", "-5", "5"], "--range must be finite numbers greater than 0, got [-5.0, 5.0]"),
        (["--env", "Pendulum-v1"], "model must act in this environment's action space"),
        (["--env", "Nowhere-v0", "--range", "1"], "--env must be the id of a registered environment, got 'Nowhere-v0'"),
    ],
)
def test_it_refuses_bad_arguments(
    model: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["goals", model, "--env", POINT, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_range_is_asked_for_where_there_is_none() -> None:
    env = make_vec_env("Pendulum-v1")
    with pytest.raises(ValueError, match="--range must be given for an environment that has none of its own, got none"):
        half_widths_of(env, "Pendulum-v1", None)
    assert half_widths_of(env, "Pendulum-v1", [3.0]) == [3.0]
    env = make_vec_env(POINT)
    env.reset()
    assert half_widths_of(env, POINT, [3.0]) == [3.0, 3.0]
    assert half_widths_of(env, POINT, [3.0, 2.0]) == [3.0, 2.0]


def test_it_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["goals", str(tmp_path / "none.zip"), "--env", POINT]) == 2
    assert "MODEL must be a file or a run's folder, got" in capsys.readouterr().err
