"""A model that learnt on normalised observations is measured, followed and sent to goals with its own statistics."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_metra.common.normalization import ObservationNormalization
from sb3_metra.common.skill_model import as_learnt, check_fit, observation_normalizer
from sb3_metra.common.skills import SpherePrior
from sb3_metra.downstream import SkillActionVecWrapper, SkillActionWrapper, sac_from_skill
from sb3_metra.downstream.tasks import GoalTask
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation import evaluate_goals, evaluate_skills, rollout_skills
from sb3_metra.evaluation.report import write_report
from tests.toys import Follower, goal_points, tiny_model

MEAN, STD = np.array([3.0, -1.0]), np.array([2.0, 0.5])


def statistics() -> ObservationNormalization:
    """What an algorithm carries as ``normalization``."""
    return ObservationNormalization(MEAN, STD**2, 100.0, clip=100.0, epsilon=0.0, training=False)


class Seeing(Follower):
    """Follows skills, and learnt on normalised observations."""

    normalization = statistics()

    def encode(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(observation) * STD  # back to places, but for a shift

    @property
    def seen(self) -> np.ndarray:
        return np.concatenate([np.atleast_2d(call) for call in self.calls])


def learnt() -> Seeing:
    return Seeing(PointMassEnv(), SpherePrior(2))


def normalized(places: np.ndarray) -> np.ndarray:
    return (places - MEAN) / STD


def other_statistics(n: int = 2) -> VecNormalize:
    """Point masses under statistics of their own, which still learn."""
    env = VecNormalize(goal_points(n, 6), gamma=0.9)
    env.reset()
    for _ in range(5):
        env.step(np.ones((n, 2)))
    return env


def state_of(env: VecNormalize) -> dict[str, Any]:
    names = ("training", "norm_obs", "norm_reward", "clip_obs", "epsilon")
    return {name: getattr(env, name) for name in names} | {
        "mean": env.obs_rms.mean.copy(),
        "var": env.obs_rms.var.copy(),
    }


def only_rewards() -> VecNormalize:
    """Point masses whose rewards are normalised, and whose observations are not."""
    return VecNormalize(goal_points(2, 6), norm_obs=False)


@pytest.mark.parametrize("make", [lambda: goal_points(2, 6), lambda: PointMassEnv(), other_statistics, only_rewards])
def test_rollouts_show_what_was_learnt_on(make: Any) -> None:
    model, env = learnt(), make()
    trajectories = rollout_skills(model, env, np.eye(2), seed=0, max_episode_steps=6)
    for trajectory in trajectories:
        np.testing.assert_allclose(trajectory.observations, normalized(trajectory.coordinates), atol=1e-6)
        assert np.abs(trajectory.coordinates[-1]).max() > 0.5
        # the environment's own reward, whatever the wrapper would make of it
        np.testing.assert_allclose(trajectory.episode_return, 0.6, atol=1e-6)


def test_statistics_of_others_are_put_back() -> None:
    model, env = learnt(), other_statistics()
    shared, before = env.obs_rms, state_of(env)
    rollout_skills(model, env, np.eye(2), seed=0)
    with pytest.raises(RuntimeError, match="in the middle"), as_learnt(model, env):
        raise RuntimeError("in the middle")
    assert env.obs_rms is shared
    after = state_of(env)
    assert all(np.array_equal(value, after[name]) for name, value in before.items())


def test_a_model_without_statistics_sees_what_the_environment_shows() -> None:
    env = other_statistics()
    env.training = False
    model = Follower(PointMassEnv(), SpherePrior(2))
    (trajectory, _) = rollout_skills(model, env, np.eye(2), seed=0)
    np.testing.assert_allclose(trajectory.observations, env.normalize_obs(trajectory.coordinates), atol=1e-5)


def test_metrics_do_not_depend_on_the_wrapper() -> None:
    plain = evaluate_skills(learnt(), goal_points(2, 6), n_skills=4)
    wrapped = evaluate_skills(learnt(), other_statistics(), n_skills=4)
    assert plain == pytest.approx(wrapped)
    assert plain["phi_cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("make", [goal_points, lambda n, length: VecNormalize(goal_points(n, length), training=True)])
def test_goals_are_seen_as_states_are(make: Any) -> None:
    goals = np.array([[1.0, 0.5], [-1.0, 0.0], [0.0, 2.0]])
    trajectories = evaluate_goals(learnt(), make(2, 40), goals)
    assert trajectories.metrics((0.2,))["goal_success_0.2"] == 1.0


def test_the_page_shows_phi_of_what_was_learnt_on(tmp_path: Path) -> None:
    model = learnt()
    write_report(model, goal_points(1, 6), tmp_path / "page.html", n_skills=2)
    assert model.seen.mean(axis=0) == pytest.approx(normalized(np.zeros(2)), abs=0.2)


def task() -> gym.Env:
    return gym.wrappers.TimeLimit(GoalTask(PointMassEnv(), 5.0, 1.0), 6)


def test_skills_are_followed_on_tasks_as_they_were_learnt() -> None:
    places = []
    for env, action in (
        (SkillActionWrapper(task(), model := learnt(), 3), np.array([1.0, 0.0])),
        (SkillActionVecWrapper(DummyVecEnv([task, task]), many := learnt(), 3), np.array([[1.0, 0.0], [0.0, 1.0]])),
    ):
        env.reset()
        result = env.step(action)
        places.append(result[0]["observation"])  # what chooses the skills sees the task as it is
    assert np.abs(places[0]).max() < 0.5
    for follower in (model, many):
        assert np.abs(follower.seen - normalized(np.zeros(2))).max() < 0.9


def test_fine_tuning_asks_for_observations_as_they_were_learnt_on() -> None:
    model = tiny_model(statistics().wrap(goal_points(1)))
    skill = np.array([1.0, 0.0], np.float32)
    with pytest.raises(ValueError, match="env must normalise observations as they were when the skills were learnt"):
        sac_from_skill(model, PointMassEnv(), skill)
    env = model.normalization.wrap(goal_points(1))
    sac = sac_from_skill(model, env, skill, buffer_size=10)
    observation = env.reset()
    expected, _ = model.predict(observation, state=skill, deterministic=True)
    np.testing.assert_allclose(sac.predict(observation, deterministic=True)[0], expected, atol=1e-5)


def test_one_observation_or_many_are_normalised() -> None:
    model = learnt()
    model.observation_space = PointMassEnv().observation_space
    normalize = observation_normalizer(model)
    for observation in (np.zeros(2, np.float32), np.ones((4, 2), np.float32)):
        np.testing.assert_allclose(normalize(observation), normalized(observation), atol=1e-6)
    assert observation_normalizer(Follower(PointMassEnv(), SpherePrior(2)))(MEAN) is MEAN


def test_a_model_of_another_environment_is_refused_before_any_step() -> None:
    model = learnt()
    with pytest.raises(ValueError, match="model must act in this environment's action space"):
        rollout_skills(model, gym.make("Pendulum-v1"), np.eye(2))
    other = deepcopy(PointMassEnv().observation_space)
    model.observation_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)
    with pytest.raises(ValueError, match="model must have learnt skills on the observations of this environment"):
        check_fit(model, other, model.action_space)
    assert not model.calls
