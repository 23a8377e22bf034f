"""Goal environments: the desired goal is hidden from skills, and is where ``goals`` sends them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_metra.common.goal_spaces import at_goal, has_goal, without_goal
from sb3_metra.common.networks import flatten_state, state_dim
from sb3_metra.evaluation import desired_goals, evaluate_goals, rollout_skills
from tests.test_discrete_actions import make
from tests.toys import tiny_model

PLACE = spaces.Box(-9.0, 9.0, (2,), np.float64)


class Wanderer(gym.Env):
    """A point with a velocity, and a goal that is drawn at each reset; an episode takes 6 steps."""

    observation_space = spaces.Dict(
        {"observation": spaces.Box(-9.0, 9.0, (4,)), "achieved_goal": PLACE, "desired_goal": PLACE}
    )
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal, self.t = self.np_random.uniform(0.1, 0.2, 2), self.np_random.uniform(-5, 5, 2), 0
        return self._observe(np.zeros(2)), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place, self.t = self.place + action, self.t + 1
        return self._observe(action), 0.0, False, self.t == 6, {}

    def _observe(self, velocity: np.ndarray) -> dict[str, np.ndarray]:
        seen = np.concatenate([velocity, self.place]).astype(np.float32)
        # achieved goals are as in single precision, so that the observation repeats them
        return {"observation": seen, "achieved_goal": seen[2:].astype(float), "desired_goal": self.goal.copy()}


def wanderers(n: int = 2) -> DummyVecEnv:
    return DummyVecEnv([Wanderer for _ in range(n)])


def observation(desired: float) -> dict[str, np.ndarray]:
    """One observation, with a desired goal."""
    return {
        "observation": np.float32([0.0, 0.0, 1.0, 2.0]),
        "achieved_goal": np.array([1.0, 2.0]),
        "desired_goal": np.full(2, desired),
    }


def test_which_observations_have_a_goal() -> None:
    assert has_goal(Wanderer.observation_space)
    assert has_goal(observation(0.0))
    assert not has_goal(spaces.Dict({"observation": PLACE, "desired_goal": PLACE}))
    assert not has_goal(PLACE)
    assert not has_goal(np.zeros(3))
    assert set(without_goal(Wanderer.observation_space)) == {"observation", "achieved_goal"}
    assert without_goal(PLACE) is PLACE


@pytest.mark.parametrize("name", ["METRA", "CSD", "DADS", "CIC"])
def test_no_network_sees_the_desired_goal(name: str) -> None:
    model = make(name, wanderers(), policy="MultiInputPolicy").learn(24)
    skill = np.float32([1.0, 0.0])
    actions = [model.predict(observation(x), state=skill, deterministic=True)[0] for x in (0.0, 5.0)]
    np.testing.assert_array_equal(*actions)
    if hasattr(model, "encode"):
        np.testing.assert_array_equal(*[model.encode(observation(x)) for x in (0.0, 5.0)])
    other = observation(0.0) | {"achieved_goal": np.array([3.0, 2.0])}
    assert not np.array_equal(model.predict(other, state=skill, deterministic=True)[0], actions[0])


def test_states_without_the_goal_by_hand() -> None:
    batch = {key: th.as_tensor(x)[None].float() for key, x in observation(7.0).items()}
    assert flatten_state(batch).tolist() == [[1.0, 2.0, 0.0, 0.0, 1.0, 2.0]]
    assert state_dim(Wanderer.observation_space, "CSD") == 6


def test_an_observation_at_the_goal_by_hand() -> None:
    before = observation(7.0)
    seen = at_goal(before, [3.0, 4.0])
    assert {key: x.tolist() for key, x in seen.items()} == {
        "observation": [0.0, 0.0, 3.0, 4.0],
        "achieved_goal": [3.0, 4.0],
        "desired_goal": [3.0, 4.0],
    }
    assert before["achieved_goal"].tolist() == [1.0, 2.0]
    apart = at_goal(before | {"achieved_goal": np.array([5.0, 6.0])}, [3.0, 4.0])
    assert apart["observation"].tolist() == [0.0, 0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"goal must have the shape of achieved_goal, \(2,\), got \[3.0\]"):
        at_goal(before, [3.0])


@pytest.mark.parametrize("normalised", [False, True])
def test_places_are_what_is_achieved(normalised: bool) -> None:
    venv: Any = VecNormalize(wanderers(), training=True) if normalised else wanderers()
    model = tiny_model(venv, "MultiInputPolicy", phi_kwargs={}).learn(24)
    trajectories = rollout_skills(model, wanderers(), np.eye(2, dtype=np.float32), seed=0)
    env = wanderers()
    env.seed(0)
    starts = env.reset()["achieved_goal"]
    for trajectory, start in zip(trajectories, starts, strict=True):
        assert trajectory.coordinates.shape == (7, 2)
        np.testing.assert_allclose(trajectory.coordinates[0], start, atol=1e-5)


def test_goals_are_those_that_the_environment_desires() -> None:
    model, env = tiny_model(wanderers(), "MultiInputPolicy", phi_kwargs={}), wanderers()
    goals = desired_goals(env, 3, seed=0)
    assert goals.shape == (3, 2)
    env.seed(0)
    np.testing.assert_array_equal(goals[:2], env.reset()["desired_goal"])
    result = evaluate_goals(model, env, goals)
    assert [places.shape for places in result.coordinates] == [(7, 2)] * 3
    with pytest.raises(ValueError, match="env must be a goal environment, got observations in Box"):
        desired_goals(gym.make("sb3_metra/PointMass-v0"))
    with pytest.raises(ValueError, match=r"goal_observation\(goal\), or be a goal environment"):
        evaluate_goals(tiny_model("Pendulum-v1"), gym.make("Pendulum-v1"), goals)
