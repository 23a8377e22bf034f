"""Rollouts, coverage, pictures and the callback, on environments whose answers are known by hand."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA
from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.evaluation import SkillEvalCallback, policy_state_coverage, rollout_skills, state_coverage
from sb3_metra.evaluation.plotting import plot_curves, plot_trajectories, skill_colors
from sb3_metra.evaluation.video import tile, write_video


class FollowSkill:
    """A policy whose action is its skill."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.asarray(state, dtype=np.float32), state


class Walk(gym.Env):
    """Moves by the action; ends after ``length`` steps, by termination; coordinates are the position."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length: int = 3, tell: bool = True) -> None:
        self.length, self.tell = length, tell

    def _info(self) -> dict:
        return {"coordinates": self.place.copy()} if self.tell else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = np.zeros(2), 0
        return self.place.astype(np.float32), self._info()

    def step(self, action):
        self.place, self.steps = self.place + action, self.steps + 1
        return self.place.astype(np.float32), 2.0, self.steps == self.length, False, self._info()


def small_model(**kwargs) -> METRA:
    arch = {"net_arch": [16, 16]}
    defaults = {
        "policy_kwargs": arch,
        "phi_kwargs": arch,
        "learning_starts": 100,
        "train_freq": 50,
        "gradient_steps": 2,
    }
    defaults |= {"buffer_size": 2000, "batch_size": 32, "seed": 0, "device": "cpu"} | kwargs
    return METRA("MlpPolicy", make_vec_env("sb3_metra/PointMass-v0", 2, seed=0), **defaults)


@pytest.mark.parametrize("n_envs", [1, 2, 3, 8])
def test_rollouts_follow_each_skill_for_one_episode_in_order(n_envs: int) -> None:
    lengths = [3 + i for i in range(n_envs)]
    env = DummyVecEnv([lambda n=n: Walk(n) for n in lengths])
    skills = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.6, 0.8]], np.float32)
    trajectories = rollout_skills(FollowSkill(), env, skills)
    assert len(trajectories) == 5
    for i, (trajectory, skill) in enumerate(zip(trajectories, skills, strict=True)):
        steps = lengths[i % n_envs]
        np.testing.assert_array_equal(trajectory.skill, skill)
        assert len(trajectory) == steps
        np.testing.assert_allclose(trajectory.coordinates, np.outer(np.arange(steps + 1), skill), rtol=1e-6)
        np.testing.assert_allclose(trajectory.observations, trajectory.coordinates, rtol=1e-6)
        assert trajectory.episode_return == 2.0 * steps


def test_rollouts_take_a_plain_environment_and_reproduce_with_a_seed() -> None:
    env = gym.make("sb3_metra/PointMass-v0")
    first, second = (rollout_skills(FollowSkill(), env, np.eye(2), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[1].coordinates, second[1].coordinates)
    assert len(first[0]) == 100


def test_rollouts_through_a_wrapper_keep_the_first_place() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Walk(3)]), training=False)
    (trajectory,) = rollout_skills(FollowSkill(), env, np.array([[1.0, 0.0]]))
    np.testing.assert_array_equal(trajectory.coordinates[:, 0], [0.0, 1.0, 2.0, 3.0])
    assert len(trajectory) == 3


def test_rollouts_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"skills must have shape \(n, skill_dim\), got \(2,\)"):
        rollout_skills(FollowSkill(), Walk(), np.ones(2))
    with pytest.raises(ValueError, match="render_mode"):
        rollout_skills(FollowSkill(), Walk(), np.eye(2), frames=True)
    with pytest.raises(ValueError, match="training=False"):
        rollout_skills(FollowSkill(), VecNormalize(DummyVecEnv([Walk])), np.eye(2))


def test_coverage_counts_cells_by_hand() -> None:
    # cells (0,0), (0,0), (1,0) | (-1,-1), (0,0) -> 3 distinct; floor, not rounding towards zero
    paths = [np.array([[0.0, 0.0], [0.9, 0.9], [1.0, 0.2]]), np.array([[-0.1, -0.1], [0.5, 0.5]])]
    assert state_coverage(paths) == 3
    assert state_coverage(paths, cell_size=2.0) == 2
    assert state_coverage([np.array([[-0.5], [0.5], [1.5], [1.6]])]) == 3
    assert state_coverage([]) == 0


def test_coverage_includes_the_first_and_the_final_state() -> None:
    # three steps of length 1 along x from 0: cells 0, 1, 2, 3
    trajectories = rollout_skills(FollowSkill(), Walk(3), np.array([[1.0, 0.0]]))
    assert state_coverage(t.coordinates for t in trajectories) == 4


def test_policy_state_coverage_draws_skills_from_the_prior_with_a_seed() -> None:
    env = DummyVecEnv([lambda: Walk(5)] * 4)
    skills = SpherePrior(2).evaluation_skills(48, np.random.default_rng(7))
    cells = {tuple(np.floor(k * s).astype(int)) for s in skills.astype(np.float64) for k in range(6)}
    before = np.random.get_state()[1].copy()
    assert abs(policy_state_coverage(FollowSkill(), env, SpherePrior(2), seed=7) - len(cells)) <= 2  # float32 edges
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_discrete_skills_are_spread_evenly() -> None:
    counts = OneHotPrior(16).evaluation_skills(48).sum(axis=0)
    np.testing.assert_array_equal(counts, 3)


def test_coverage_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r'info\["coordinates"\]'):
        policy_state_coverage(FollowSkill(), Walk(tell=False), SpherePrior(2))
    with pytest.raises(ValueError, match="cell_size must be"):
        state_coverage([np.zeros((1, 2))], cell_size=0.0)
    with pytest.raises(ValueError, match="finite"):
        state_coverage([np.array([[np.nan, 0.0]])])


def test_callback_logs_keeps_the_best_and_leaves_training_alone(tmp_path: Path) -> None:
    callback = SkillEvalCallback(
        make_vec_env("sb3_metra/PointMass-v0", 3), eval_freq=300, n_skills=6, best_model_save_path=tmp_path
    )
    watched = small_model().learn(900, callback)
    alone = small_model().learn(900)  # made afterwards: the seed is set when a model is made
    for key, value in watched.policy.state_dict().items():
        assert th.equal(value, alone.policy.state_dict()[key]), key
    assert callback.best_coverage >= callback.last_coverage > 0
    best = METRA.load(tmp_path / "best_model")
    skills = best.skill_prior.evaluation_skills(6, np.random.default_rng(0))
    again = rollout_skills(best, make_vec_env("sb3_metra/PointMass-v0", 3), skills, seed=0)
    assert state_coverage(t.coordinates for t in again) == callback.best_coverage


def test_callback_evaluates_between_rounds_and_at_the_end() -> None:
    steps: list[int] = []

    class Recording(SkillEvalCallback):
        def evaluate(self) -> int:
            steps.append(self.num_timesteps)
            return super().evaluate()

    small_model().learn(700, Recording(make_vec_env("sb3_metra/PointMass-v0", 2), eval_freq=250, n_skills=2))
    assert steps == [300, 500, 700]


def test_pictures_and_videos_are_written(tmp_path: Path) -> None:
    env = make_vec_env("sb3_metra/PointMass-v0", 2, env_kwargs={"render_mode": "rgb_array", "width": 32, "height": 32})
    trajectories = rollout_skills(FollowSkill(), env, np.eye(2), frames=True)
    assert [len(t.frames) for t in trajectories] == [100, 100]
    figure = plot_trajectories(trajectories, tmp_path / "skills.png")
    assert len(figure.axes[0].lines) == 4  # a path and its end for each skill
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_array_equal(np.stack([x, y], axis=1), trajectories[0].coordinates)
    plot_curves({"a": [(np.arange(3), np.arange(3))]}, tmp_path / "curve.svg")
    assert (tmp_path / "skills.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (tmp_path / "curve.svg").read_bytes()
    for name in ("skills.gif", "skills.mp4"):
        assert write_video([t.frames[:5] for t in trajectories], tmp_path / name).stat().st_size > 500
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        write_video([trajectories[0].frames], tmp_path / "skills.webm")
    with pytest.raises(ValueError, match="coordinates"):
        plot_trajectories(rollout_skills(FollowSkill(), Walk(tell=False), np.eye(2)))


def test_tile_fills_up_with_white() -> None:
    images = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    grid = tile(images)
    assert grid.shape == (4, 6, 3)
    for value, corner in ((10, grid[:2, :3]), (20, grid[:2, 3:]), (30, grid[2:, :3]), (255, grid[2:, 3:])):
        np.testing.assert_array_equal(corner, value)


def test_colors_tell_directions_apart() -> None:
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    colors = skill_colors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert len(np.unique(colors.round(3), axis=0)) == 8
    assert len(np.unique(skill_colors(np.eye(5)), axis=0)) == 5
    assert len(np.unique(skill_colors(np.array([[-1.0], [1.0]])), axis=0)) == 2
