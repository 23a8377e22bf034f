"""SAC started from a skill acts as the skill does, judges as its critics do if asked to, and goes on as any SAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_metra.envs  # noqa: F401
from sb3_metra import METRA
from sb3_metra.downstream import sac_from_skill
from tests.toys import Scripted, scripted_envs, tiny_model

ARCH = {"policy_kwargs": {"net_arch": {"pi": [8, 7], "qf": [9]}}}
SKILLS = {False: np.array([0.6, 0.0, 0.8], np.float32), True: np.array([0, 1, 0], np.float32)}


def skilled(discrete: bool = False, **kwargs: Any) -> METRA:
    return tiny_model(make_vec_env("sb3_metra/PointMass-v0"), skill_dim=3, discrete=discrete, **(ARCH | kwargs))


def places(n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)


def seen(sac: SAC, observations: np.ndarray) -> Any:
    """Observations of the task, with goals drawn at random where it has goals."""
    if isinstance(sac.observation_space, gym.spaces.Box):
        return observations
    return {"observation": observations, "goal": np.random.default_rng(1).normal(size=(len(observations), 2), scale=50)}


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("env_id", ["sb3_metra/PointMass-v0", "sb3_metra/PointMassGoal-v0"])
def test_it_acts_as_the_skill(env_id: str, discrete: bool) -> None:
    model = skilled(discrete)
    sac = sac_from_skill(model, make_vec_env(env_id), SKILLS[discrete])
    wanted, _ = model.predict(places(), state=SKILLS[discrete], deterministic=True)
    got, _ = sac.predict(seen(sac, places()), deterministic=True)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    others, _ = model.predict(places(), state=np.roll(SKILLS[discrete], 1), deterministic=True)
    assert np.abs(others - wanted).max() > 1e-3  # so that the skill makes a difference


def test_what_is_sampled_spreads_as_the_skill_does() -> None:
    model = skilled()
    sac = sac_from_skill(model, make_vec_env("sb3_metra/PointMassGoal-v0"), SKILLS[False])
    obs, _ = sac.policy.obs_to_tensor(seen(sac, places()))
    conditioned = model.policy.condition(th.as_tensor(places()), th.as_tensor(SKILLS[False]).expand(20, -1))
    with th.no_grad():
        for got, wanted in zip(
            sac.actor.get_action_dist_params(obs)[:2], model.actor.get_action_dist_params(conditioned)[:2], strict=True
        ):
            th.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("critics", [False, True])
def test_critics_judge_as_the_skill_s_only_if_asked_to(critics: bool) -> None:
    model = skilled()
    sac = sac_from_skill(model, make_vec_env("sb3_metra/PointMassGoal-v0"), SKILLS[False], critics=critics)
    actions = th.rand(20, 2) * 2 - 1
    obs, _ = sac.policy.obs_to_tensor(seen(sac, places()))
    conditioned = model.policy.condition(th.as_tensor(places()), th.as_tensor(SKILLS[False]).expand(20, -1))
    with th.no_grad():
        wanted = th.cat(model.critic(conditioned, actions), dim=1)
        for critic in (sac.critic, sac.critic_target):
            assert th.allclose(th.cat(critic(obs, actions), dim=1), wanted, atol=1e-5) == critics


def test_it_learns_saves_and_loads_as_any_sac(tmp_path: Path) -> None:
    env = make_vec_env("sb3_metra/PointMassGoal-v0", n_envs=2)
    sac = sac_from_skill(skilled(), env, SKILLS[False], batch_size=8, train_freq=8, seed=0)
    assert type(sac) is SAC
    first = sac.predict(seen(sac, places()), deterministic=True)[0]
    sac.learn(64)
    after = sac.predict(seen(sac, places()), deterministic=True)[0]
    assert np.abs(after - first).max() > 0
    sac.save(tmp_path / "sac")
    again = SAC.load(tmp_path / "sac", env=env)
    np.testing.assert_array_equal(again.predict(seen(sac, places()), deterministic=True)[0], after)
    again.learn(16)


def test_its_first_steps_are_the_skill_s() -> None:
    env = DummyVecEnv([lambda: Scripted(0, (50,))])
    model = tiny_model(env)
    skill = np.array([1.0, 0.0], np.float32)
    sac = sac_from_skill(model, env, skill, train_freq=20, gradient_steps=1)
    sac.actor.log_std.bias.data.fill_(-20.0)  # type: ignore[union-attr]
    sac.actor.log_std.weight.data.zero_()  # type: ignore[union-attr]
    sac.learn(20)
    states = np.stack([np.array([0, 0, step], np.float32) for step in range(20)])
    wanted, _ = model.predict(states, state=skill, deterministic=True)
    np.testing.assert_allclose(env.envs[0].unwrapped.actions, wanted, atol=1e-3)  # type: ignore[attr-defined]


def test_arguments_reach_sac() -> None:
    sac = sac_from_skill(skilled(), make_vec_env("sb3_metra/PointMass-v0"), SKILLS[False], learning_starts=7, gamma=0.5)
    assert (sac.learning_starts, sac.gamma) == (7, 0.5)


# Bad input


def test_a_skill_that_is_none_is_refused() -> None:
    env = make_vec_env("sb3_metra/PointMass-v0")
    with pytest.raises(ValueError, match=r"skill must have shape \(3,\) or \(n, 3\), got \(2,\)"):
        sac_from_skill(skilled(), env, np.ones(2))
    with pytest.raises(ValueError, match="skill must have norm 1"):
        sac_from_skill(skilled(), env, np.ones(3))
    with pytest.raises(ValueError, match=r"skill must be a single one, of shape \(3,\), got \(2, 3\)"):
        sac_from_skill(skilled(), env, np.stack([SKILLS[False]] * 2))


def test_a_task_of_another_body_is_refused() -> None:
    with pytest.raises(ValueError, match="model must act in this environment's action space"):
        sac_from_skill(skilled(), gym.make("Pendulum-v1"), SKILLS[False])


def test_images_are_refused() -> None:
    model = tiny_model(scripted_envs(1, kind="image"), "CnnPolicy")
    with pytest.raises(ValueError, match="model must see vectors without an encoder to learn, got observations Box"):
        sac_from_skill(model, scripted_envs(1, kind="image"), np.array([1.0, 0.0]))
