"""Rollouts, coverage, pictures and the callback, on environments whose answers are known by hand."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA, evaluation
from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.evaluation import SkillEvalCallback, policy_state_coverage, rollout_skills, state_coverage
from tests.toys import TINY


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
        make_vec_env("sb3_metra/PointMass-v0", 3), eval_freq=200, n_skills=6, best_model_save_path=tmp_path
    )
    watched = small_model().learn(600, callback)
    alone = small_model().learn(600)  # made afterwards: the seed is set when a model is made
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


def logged(folder: Path) -> list[dict[str, str]]:
    """The lines of a CSV log that hold an evaluation."""
    with (folder / "progress.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("eval/episode_return")]


def test_callback_logs_everything_and_leaves_training_alone(tmp_path: Path) -> None:
    """Pictures, videos and the coverage of training draw no random number that training would have drawn."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    eval_kwargs = {"width": 32, "height": 32, "max_episode_steps": 30}
    eval_env = make_vec_env("sb3_metra/PointMass-v0", 3, env_kwargs=eval_kwargs)
    watched = small_model()
    watched.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    callback = SkillEvalCallback(eval_env, eval_freq=300, n_skills=4, queue_episodes=2, figures=True, video_skills=2)
    watched.learn(600, callback)
    alone = small_model().learn(600)
    for key, value in watched.policy.state_dict().items():
        assert th.equal(value, alone.policy.state_dict()[key]), key

    rows = logged(tmp_path)
    assert [row["time/total_timesteps"] for row in rows] == ["300", "600"]
    totals, queues = ([int(row[f"eval/{name}_state_coverage"]) for row in rows] for name in ("total", "queue"))
    assert 0 < totals[0] <= totals[1]
    assert all(queue <= total for queue, total in zip(queues, totals, strict=True))
    for name in ("policy_state_coverage", "distance", "phi_cosine", "phi_violation", "phi_temporal_correlation"):
        assert np.isfinite([float(row[f"eval/{name}"]) for row in rows]).all(), name

    events = event_accumulator.EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    for tag, start in (("eval/skills", b"\x89PNG"), ("eval/phi", b"\x89PNG"), ("eval/video", b"GIF")):
        images = events.Images(tag)
        assert [image.step for image in images] == [300, 600]
        assert all(image.encoded_image_string.startswith(start) for image in images)
    video = iio.imread(events.Images("eval/video")[0].encoded_image_string)
    assert video.shape[1:] == (32 + 14, 2 * 32, 3)  # frames alike are one in a GIF


def test_total_coverage_is_that_of_all_training_episodes(tmp_path: Path) -> None:
    """Against counting every place that the replay buffer and the resets have seen."""
    model = small_model()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(500, SkillEvalCallback(make_vec_env("sb3_metra/PointMass-v0", 2), eval_freq=1000, n_skills=2))
    buffer = model.replay_buffer
    filled = buffer.observations[: buffer.pos], buffer.next_observations[: buffer.pos]
    places = [places.reshape(-1, 2) for places in filled]
    assert int(logged(tmp_path)[-1]["eval/total_state_coverage"]) == state_coverage(places)


class Doors(Walk):
    """Tells no coordinates, but a task: to have moved at all, or by as much as 2 along the first axis."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"tasks": {"moved": True, "far": self.place[0] > 2.0}}


def test_callback_keeps_the_best_by_tasks_where_there_are_no_coordinates(tmp_path: Path) -> None:
    model = METRA("MlpPolicy", Doors(5, tell=False), **TINY)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = SkillEvalCallback(Doors(5, tell=False), eval_freq=20, n_skills=3, best_model_save_path=tmp_path)
    model.learn(40, callback)
    assert callback.best_coverage == max(int(row["eval/task_coverage"]) for row in logged(tmp_path)) >= 1
    assert {row["eval/total_task_coverage"] for row in logged(tmp_path)} <= {"1", "2"}
    assert "eval/policy_state_coverage" not in logged(tmp_path)[0]
    assert (tmp_path / "best_model.zip").is_file()


def test_callback_says_at_once_what_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = METRA("MlpPolicy", Walk(3, tell=False), **TINY)
    callback = SkillEvalCallback(Walk(3, tell=False), best_model_save_path=tmp_path)
    with pytest.raises(ValueError, match=r'eval_env must report info\["coordinates"\] or info\["tasks"\]'):
        model.learn(8, callback)
    assert model.num_timesteps == 0
    model.learn(8, SkillEvalCallback(Walk(3, tell=False), n_skills=2))  # without a best model there is enough to log
    with pytest.raises(ValueError, match='render_mode="rgb_array" for video_skills, got None'):
        SkillEvalCallback(Walk(3), video_skills=2)
    with pytest.raises(ValueError, match="need a log for TensorBoard, got none"):
        model.learn(8, SkillEvalCallback(Walk(3), figures=True))
    for module, argument in (("matplotlib", "figures"), ("imageio.v3", "video_skills")):
        with monkeypatch.context() as context:
            room = "plotting" if argument == "figures" else "video"
            context.setitem(sys.modules, module, None)
            for name in [name for name in sys.modules if name.startswith(f"sb3_metra.evaluation.{room}")]:
                context.delitem(sys.modules, name)
            context.delattr(evaluation, room, raising=False)
            with pytest.raises(ImportError, match=r'pip install "sb3-metra\[plot\]"'):
                SkillEvalCallback(Walk(3), **{argument: True if argument == "figures" else 1})
