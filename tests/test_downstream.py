"""Hierarchical control: skills as actions, in one environment and in many, and what must not get lost on the way."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SpherePrior
from sb3_metra.downstream import SkillActionVecWrapper, SkillActionWrapper, skill_action_space, to_skills
from sb3_metra.downstream.tasks import make_goal_task
from tests.toys import Follower, Scripted, same, scripted_envs, state_of, tiny_model

POINT_GOAL = "sb3_metra/PointMassGoal-v0"


# Actions and skills


def test_a_continuous_action_is_the_point_of_the_sphere_in_its_direction() -> None:
    skills = to_skills(SpherePrior(2), np.array([[0.3, 0.4], [-0.01, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(skills, [[0.6, 0.8], [-1, 0], [1, 0], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    assert skills.dtype == np.float32


def test_a_gaussian_action_reaches_two_standard_deviations() -> None:
    np.testing.assert_allclose(to_skills(GaussianPrior(2), np.array([[0.5, -1.0]])), [[1.0, -2.0]])


@pytest.mark.parametrize("actions", [np.array([2, 0]), np.array([[2], [0]])])
def test_a_discrete_action_is_the_number_of_a_skill(actions: np.ndarray) -> None:
    np.testing.assert_array_equal(to_skills(OneHotPrior(3), actions), [[0, 0, 1], [1, 0, 0]])


def test_the_action_space_is_that_of_the_skills() -> None:
    assert skill_action_space(OneHotPrior(5)) == spaces.Discrete(5)
    assert skill_action_space(SpherePrior(3)) == spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize("prior", [SpherePrior(1), SpherePrior(3), GaussianPrior(2), OneHotPrior(4)])
def test_every_action_is_a_valid_skill(prior: Any) -> None:
    space = skill_action_space(prior)
    space.seed(0)
    skills = to_skills(prior, np.stack([space.sample() for _ in range(20)]))
    np.testing.assert_array_equal(prior.validate(skills), skills)


# One environment


def scripted_task(length: int, skill_length: int, index: int = 0) -> tuple[SkillActionWrapper, Follower]:
    env = Scripted(index, (length,))
    model = Follower(env, SpherePrior(2))
    return SkillActionWrapper(env, model, skill_length), model


def test_a_skill_is_followed_for_its_length_and_rewards_are_summed() -> None:
    env, model = scripted_task(length=10, skill_length=4)
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.array([3.0, 4.0]))
    np.testing.assert_array_equal(observation, [0, 0, 4])
    assert reward == pytest.approx(4 * 0.6)
    assert (terminated, truncated, info["skill_steps"]) == (False, False, 4)
    np.testing.assert_allclose(info["skill"], [0.6, 0.8], atol=1e-6)
    assert [seen[2] for seen in model.calls] == [0, 1, 2, 3]


def test_an_episode_that_ends_on_the_way_ends_the_step() -> None:
    env, _ = scripted_task(length=5, skill_length=4)
    for episode, ends in enumerate([(True, False), (False, True)]):  # even episodes terminate, odd ones are truncated
        env.reset()
        env.step(np.array([1.0, 0.0]))
        observation, reward, *flags, info = env.step(np.array([1.0, 0.0]))
        np.testing.assert_array_equal(observation, [0, episode, 5])
        assert (reward, tuple(flags), info["skill_steps"]) == (1.0, ends, 1)


@pytest.mark.parametrize("discrete", [False, True])
def test_checkers_of_gymnasium_and_sb3_pass(discrete: bool) -> None:
    model = tiny_model(make_vec_env("sb3_metra/PointMass-v0"), skill_dim=3, discrete=discrete)
    env = SkillActionWrapper(gym.make(POINT_GOAL), model, 25)
    check_env(env)
    check_env_of_gymnasium(env, skip_render_check=True, skip_close_check=True)
    steps = 0
    env.reset()
    while not env.step(env.action_space.sample())[3]:
        steps += 1
    assert steps + 1 == 8  # 8 skills of 25 steps are an episode of 200


# Many environments


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize("skill_length", [1, 2, 4, 7])
def test_many_environments_do_what_each_does_alone(vec_env_class: Any, skill_length: int) -> None:
    if vec_env_class is SubprocVecEnv and skill_length != 4:
        pytest.skip("one length is enough for processes")
    lengths = [(3, 5, 1, 4), (5, 1, 4, 3), (1, 4, 3, 5)]
    venv = vec_env_class([partial(Scripted, i, lengths[i]) for i in range(3)])
    many = SkillActionVecWrapper(venv, Follower(venv, SpherePrior(2)), skill_length)
    single = [Scripted(i, lengths[i]) for i in range(3)]
    alone = [SkillActionWrapper(env, Follower(env, SpherePrior(2)), skill_length) for env in single]
    observations = many.reset()
    np.testing.assert_array_equal(observations, [env.reset()[0] for env in alone])
    rng = np.random.default_rng(0)
    ended = []
    for _ in range(12):
        actions = rng.uniform(-1, 1, (3, 2))
        observations, rewards, dones, infos = many.step(actions)
        ended.append(dones)
        for i, env in enumerate(alone):
            observation, reward, terminated, truncated, info = env.step(actions[i])
            assert rewards[i] == pytest.approx(reward)
            assert dones[i] == (terminated or truncated)
            assert infos[i]["skill_steps"] == info["skill_steps"]
            assert infos[i]["TimeLimit.truncated"] == (truncated and not terminated)
            assert ("terminal_observation" in infos[i]) == dones[i]
            if dones[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], observation)
                observation = env.reset()[0]
            np.testing.assert_array_equal(observations[i], observation)
    assert np.any(ended)
    assert skill_length == 7 or not np.all(ended)
    many.close()


def test_one_call_of_the_policy_serves_all_environments() -> None:
    venv = scripted_envs(3, lengths=(20,))
    model = Follower(venv, SpherePrior(2))
    env = SkillActionVecWrapper(venv, model, 5)
    env.reset()
    env.step(np.ones((3, 2)))
    assert [seen.shape for seen in model.calls] == [(3, 3)] * 5


def test_the_step_ends_where_every_episode_has_ended() -> None:
    venv = scripted_envs(2, lengths=(3,))
    model = Follower(venv, SpherePrior(2))
    env = SkillActionVecWrapper(venv, model, 10)
    env.reset()
    assert env.step(np.ones((2, 2)))[2].all()
    assert len(model.calls) == 3


def test_the_monitor_sees_episodes_as_they_are() -> None:
    venv = make_vec_env(lambda: Scripted(0, (7,)), n_envs=2)
    env = SkillActionVecWrapper(venv, Follower(venv, SpherePrior(2)), 3)
    env.reset()
    infos = [env.step(np.array([[1.0, 0.0]] * 2))[3] for _ in range(3)][-1]
    assert [(info["episode"]["l"], info["episode"]["r"]) for info in infos] == [(7, 7.0)] * 2
    assert env.env_is_wrapped(Monitor) == [True, True]


def test_the_policy_never_sees_what_the_task_adds() -> None:
    venv = make_vec_env(POINT_GOAL, n_envs=2)
    model = Follower(gym.make("sb3_metra/PointMass-v0"), SpherePrior(2))
    env = SkillActionVecWrapper(venv, model, 2)
    observation = env.reset()
    assert set(observation) == {"observation", "goal"}
    env.step(np.ones((2, 2)))
    assert [seen.shape for seen in model.calls] == [(2, 2)] * 2


def test_a_dictionary_is_kept_whole_for_environments_that_end_apart() -> None:
    venv = scripted_envs(2, lengths=(3, 5), kind="dict")
    env = SkillActionVecWrapper(venv, Follower(venv, SpherePrior(2)), 4)
    env.reset()
    observation, _, dones, _ = env.step(np.ones((2, 2)))
    assert dones.tolist() == [True, False]
    np.testing.assert_array_equal(observation["place"], [[0, 1, 0], [1, 0, 4]])
    np.testing.assert_array_equal(observation["camera"][:, 0, 0], [[0, 1, 0], [1, 0, 4]])


# Any algorithm on top


def contrib(name: str) -> Any:
    return getattr(pytest.importorskip("sb3_contrib"), name)


ALGORITHMS: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("SAC", lambda: SAC, "MultiInputPolicy", {"learning_starts": 8, "batch_size": 8}),
    ("PPO", lambda: PPO, "MultiInputPolicy", {"n_steps": 8, "batch_size": 8, "n_epochs": 1}),
    ("TQC", lambda: contrib("TQC"), "MultiInputPolicy", {"learning_starts": 8, "batch_size": 8}),
    ("TRPO", lambda: contrib("TRPO"), "MultiInputPolicy", {"n_steps": 8, "batch_size": 8}),
    ("RecurrentPPO", lambda: contrib("RecurrentPPO"), "MultiInputLstmPolicy", {"n_steps": 8, "batch_size": 8}),
]


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
@pytest.mark.parametrize(
    ("name", "algorithm", "policy", "kwargs"),
    [pytest.param(*row, id=row[0], marks=[] if row[0] in ("SAC", "PPO") else [pytest.mark.slow]) for row in ALGORITHMS],
)
def test_algorithms_choose_skills(
    name: str, algorithm: Any, policy: str, kwargs: dict[str, Any], discrete: bool
) -> None:
    low_level = tiny_model(make_vec_env("sb3_metra/PointMass-v0"), skill_dim=2, discrete=discrete)
    before = state_of(low_level)
    env = SkillActionVecWrapper(make_vec_env(POINT_GOAL, n_envs=2), low_level, 25)
    if discrete and name in ("SAC", "TQC"):  # for Box actions only, and SB3 says so
        with pytest.raises(
            AssertionError, match=r"only supports .*Box.* as action spaces but Discrete\(2\) was provided"
        ):
            algorithm()(policy, env, device="cpu", **kwargs)
        return
    model = algorithm()(policy, env, device="cpu", policy_kwargs={"net_arch": [8]}, **kwargs)
    model.learn(32)
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2)[0])
    assert same(before, state_of(low_level))


@pytest.mark.parametrize("key", ["whole", "part"])
def test_skills_from_pixels(key: str) -> None:
    """SB3 moves the channels of images to the front, for the policy below and for the one above."""
    pixels = make_vec_env("sb3_metra/PixelPointMass-v0", n_envs=2, env_kwargs={"frame_size": 46})
    low_level = tiny_model(pixels, "CnnPolicy")
    task = DummyVecEnv([partial(make_goal_task, "PixelPointMass", 5.0, 1.0, frame_size=46)] * 2)
    env = SkillActionVecWrapper(pixels if key == "whole" else task, low_level, 3)
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "n_steps": 4, "batch_size": 4, "n_epochs": 1, "device": "cpu"}
    controller = PPO("CnnPolicy" if key == "whole" else "MultiInputPolicy", env, **kwargs).learn(8)
    assert controller.num_timesteps == 8


# Bad input


@pytest.mark.parametrize("skill_length", [0, -1, 2.5, True])
def test_a_skill_length_below_one_is_refused(skill_length: Any) -> None:
    env = Scripted()
    model = Follower(env, SpherePrior(2))
    message = f"skill_length must be an integer of at least 1, got {skill_length}"
    with pytest.raises(ValueError, match=message):
        SkillActionWrapper(env, model, skill_length)
    with pytest.raises(ValueError, match=message):
        SkillActionVecWrapper(scripted_envs(), model, skill_length)


def test_a_model_of_another_environment_is_refused() -> None:
    model = tiny_model(scripted_envs())
    with pytest.raises(ValueError, match=r"model must act in this environment's action space, Box\(-1.0, 1.0, \(2,\)"):
        SkillActionWrapper(gym.make(POINT_GOAL), model)
    pendulum = gym.make("Pendulum-v1")
    model = Follower(pendulum, SpherePrior(2))
    model.observation_space = spaces.Box(-1.0, 1.0, (5,), np.float32)
    with pytest.raises(
        ValueError, match=r"model must have learnt skills on the observations of this environment, .*got .*\(5,\)"
    ):
        SkillActionVecWrapper(DummyVecEnv([lambda: pendulum]), model)


def test_actions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="actions must be finite numbers, got"):
        to_skills(SpherePrior(2), np.array([[0.0, np.nan]]))


def test_a_step_before_a_reset_is_refused() -> None:
    with pytest.raises(gym.error.ResetNeeded):
        scripted_task(length=5, skill_length=2)[0].step(np.ones(2))


def test_a_wrapped_vectorised_environment_is_refused() -> None:
    venv = scripted_envs()
    with pytest.raises(ValueError, match="venv must be a DummyVecEnv or a SubprocVecEnv, got a VecNormalize"):
        SkillActionVecWrapper(VecNormalize(venv), Follower(venv, SpherePrior(2)))
