"""Rollouts come to an end, and what an environment reports is read as it is or refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_metra.common.skills import SpherePrior
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation import (
    CoverageTracker,
    SkillEvalCallback,
    evaluate_goals,
    evaluate_skills,
    policy_state_coverage,
    rollout_skills,
)
from sb3_metra.evaluation.episodes import PATIENCE, StepLimit, named_limit
from sb3_metra.evaluation.report import write_report
from tests.toys import Follower, goal_points, tiny_model

SKILLS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)


def follower(env: Any) -> Follower:
    """A policy whose action is its skill."""
    return Follower(env, SpherePrior(2))


class Telling(gym.Env):
    """Moves by the action for ``length`` steps; ``tell(step, place)`` is what it reports."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, tell: Any, length: int = 4) -> None:
        self.tell, self.length = tell, length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = np.zeros(2), 0
        return self.place.astype(np.float32), self.tell(0, self.place)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = self.place + action, self.steps + 1
        told = self.tell(self.steps, self.place)
        return self.place.astype(np.float32), 1.0, self.steps == self.length, False, told


# An end


@pytest.mark.parametrize("n_envs", [1, 2])
def test_endless_episodes_are_cut_where_a_limit_is_given(n_envs: int) -> None:
    env = DummyVecEnv([PointMassEnv for _ in range(n_envs)])
    trajectories = rollout_skills(follower(env), env, SKILLS, seed=0, max_episode_steps=7)
    assert [len(t) for t in trajectories] == [7, 7, 7]
    for trajectory in trajectories:
        moves = np.diff(trajectory.coordinates, axis=0)
        np.testing.assert_allclose(moves, 0.1 * np.tile(trajectory.skill, (7, 1)), atol=1e-6)


def test_a_limit_cuts_pictures_at_the_last_but_one_state() -> None:
    env = PointMassEnv(render_mode="rgb_array", width=16, height=16)
    (trajectory,) = rollout_skills(follower(env), env, SKILLS[:1], frames=True, max_episode_steps=5)
    assert (len(trajectory), len(trajectory.frames)) == (5, 5)


def test_an_episode_that_ends_before_the_limit_is_whole() -> None:
    env = DummyVecEnv([lambda n=n: Telling(lambda step, place: {"coordinates": place.copy()}, n) for n in (2, 9)])
    trajectories = rollout_skills(follower(env), env, SKILLS[:2], max_episode_steps=5)
    assert [len(t) for t in trajectories] == [2, 5]


REFUSAL = "max_episode_steps must be given for an environment without a time limit, got None and an episode of"


@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_endless_environment_is_refused_everywhere(n_envs: int, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sb3_metra.evaluation.episodes.PATIENCE", 20)
    env = DummyVecEnv([PointMassEnv for _ in range(n_envs)])
    model, prior = follower(env), SpherePrior(2)
    model.encode = np.asarray  # type: ignore[attr-defined]
    calls = [
        lambda: rollout_skills(model, env, SKILLS),
        lambda: evaluate_skills(model, env, n_skills=2),
        lambda: policy_state_coverage(model, env, prior, n_skills=2),
        lambda: evaluate_goals(model, env, np.ones((2, 2)), np.asarray, prior),
        lambda: write_report(model, env, tmp_path / "page.html"),
        lambda: tiny_model(goal_points(1)).learn(8, SkillEvalCallback(env, n_skills=2)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=REFUSAL):
            call()
    assert not list(tmp_path.iterdir())


def test_every_rollout_takes_a_limit(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sb3_metra.evaluation.episodes.PATIENCE", 20)
    env, prior = PointMassEnv(), SpherePrior(2)
    model, limit = follower(env), {"max_episode_steps": 5}
    model.encode = np.asarray  # type: ignore[attr-defined]
    assert evaluate_skills(model, env, n_skills=2, **limit)["episode_length"] == 5
    assert policy_state_coverage(model, env, prior, n_skills=2, **limit) >= 1
    seen = evaluate_goals(model, env, np.ones((2, 2)), np.asarray, prior, **limit)
    assert [len(places) for places in seen.coordinates] == [6, 6]
    assert write_report(model, env, tmp_path / "page.html", n_skills=2, **limit).path.is_file()
    callback = SkillEvalCallback(PointMassEnv(), n_skills=2, **limit)
    tiny_model(goal_points(1)).learn(8, callback)
    assert callback.last_metrics["episode_length"] == 5


def test_environments_are_asked_how_long_they_are() -> None:
    assert named_limit(DummyVecEnv([PointMassEnv])) == 0
    assert named_limit(DummyVecEnv([lambda: gym.make("sb3_metra/PointMass-v0")])) == 100
    assert named_limit(DummyVecEnv([lambda: gym.make("sb3_metra/PointMass-v0", max_episode_steps=-1)])) <= 0
    assert named_limit(goal_points(2, length=40)) == 40
    long = DummyVecEnv([lambda: gym.wrappers.TimeLimit(PointMassEnv(), PATIENCE + 5)])
    assert not StepLimit(long).reached(PATIENCE + 4)
    with pytest.raises(ValueError, match=f"more than {PATIENCE + 5} steps"):
        StepLimit(long).reached(PATIENCE + 5)
    assert len(rollout_skills(follower(long), long, SKILLS[:1])[0]) == PATIENCE + 5


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "ten", np.nan])
def test_a_limit_is_a_positive_integer(value: Any) -> None:
    with pytest.raises(ValueError, match="max_episode_steps must be an integer of at least 1, got"):
        rollout_skills(follower(PointMassEnv()), PointMassEnv(), SKILLS, max_episode_steps=value)


# What an environment reports


def at_steps(steps: set[int], value: Any = None) -> Any:
    """Report a place at some steps only, or another value there."""

    def tell(step: int, place: np.ndarray) -> dict[str, Any]:
        if value is not None:
            return {"coordinates": value if step in steps else place.copy()}
        return {"coordinates": place.copy()} if step in steps else {}

    return tell


@pytest.mark.parametrize(
    ("tell", "message"),
    [
        (at_steps({0, 1, 2, 4}), r"reported at the reset and at every step, or never, got none at step 3 and some"),
        (at_steps({1, 2, 3, 4}), r"reported at the reset and at every step, or never, got some at step 1 and none"),
        (at_steps({2}, 0.5), r'info\["coordinates"\] at step 2 must be finite numbers of shape \(k,\), .* got 0.5'),
        (at_steps({0}, np.float32(0.5)), r'info\["coordinates"\] at step 0 must be finite numbers of shape \(k,\)'),
        (at_steps({3}, [0.0, np.nan]), r'info\["coordinates"\] at step 3 must be finite numbers .* got \[0.0, nan\]'),
        (at_steps({3}, [0.0, np.inf]), r'info\["coordinates"\] at step 3 must be finite numbers'),
        (at_steps({1}, "here"), r'info\["coordinates"\] at step 1 must be finite numbers .* got \'here\''),
        (at_steps({1}, [1.0]), r"must have the shape that it has at the reset, \(2,\), got \(1,\) at step 1"),
        (at_steps({1}, []), r'info\["coordinates"\] at step 1 must be finite numbers of shape \(k,\)'),
        (lambda step, place: {"tasks": ["kettle"]}, r'info\["tasks"\] at step 0 must say by name which tasks are'),
        (lambda step, place: {"tasks": {"kettle": "yes"}}, r'info\["tasks"\] at step 0 must say by name'),
        (lambda step, place: {"tasks": {"kettle": True}} if step < 3 else {}, r"must hold .*kettle"),
    ],
)
def test_what_is_no_place_or_task_is_refused_at_once(tell: Any, message: str) -> None:
    env = Telling(tell)
    with pytest.raises(ValueError, match=message):
        evaluate_skills(follower(env), env, n_skills=2)


def test_a_callback_says_so_before_the_training() -> None:
    model = tiny_model(goal_points(1))
    with pytest.raises(ValueError, match="got none at step 3"):
        model.learn(8, SkillEvalCallback(Telling(at_steps({0, 1, 2, 4}))))
    assert model.num_timesteps == 0


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([{"coordinates": np.zeros(2)}, {}], "got 1 of 2 at one step"),
        ([{}, {}], "got 0 of 2 at one step"),
        ([{"coordinates": np.zeros(2)}, {"coordinates": np.zeros(1)}], r"finite numbers of shape \(k,\)"),
        ([{"coordinates": 0.5}, {"coordinates": 0.5}], r"finite numbers of shape \(k,\)"),
        ([{"coordinates": [np.nan]}, {"coordinates": [0.0]}], "finite numbers"),
    ],
)
def test_coverage_of_training_is_not_counted_from_half_a_report(infos: list[dict], message: str) -> None:
    tracker = CoverageTracker(2)
    tracker.reset([{"coordinates": np.zeros(2)}] * 2)
    with pytest.raises(ValueError, match=message):
        tracker.step(infos, [False, False], [{}, {}])
