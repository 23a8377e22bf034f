"""Hierarchical control: environments whose action is a skill, which a frozen policy follows for some steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_metra.common.inputs import check_count, check_numbers, check_text
from sb3_metra.common.skill_model import SkillModel, check_fit, check_prior, observation_normalizer, require_prior
from sb3_metra.common.skills import GaussianPrior, SkillPrior

_GAUSSIAN_REACH = 2.0  # standard deviations of a Gaussian skill's component that an action of 1 stands for


def skill_action_space(prior: SkillPrior) -> spaces.Discrete | spaces.Box:
    """
    The actions that choose a skill.

    :param prior: p(z)
    :return: ``Discrete(dim)`` for discrete skills, else a box [-1, 1] of ``dim`` components
    """
    check_prior(prior)
    return spaces.Discrete(prior.dim) if prior.discrete else spaces.Box(-1.0, 1.0, (prior.dim,), np.float32)


def to_skills(prior: SkillPrior, actions: np.ndarray) -> np.ndarray:
    """
    The skills that actions choose.

    A discrete action is the number of a skill. A continuous one is a direction: skills on the unit sphere are the point
    of the sphere in that direction, whatever the action's length; zero, which has no direction, is the first axis.
    Gaussian skills are twice the action, so that the box reaches two standard deviations.

    :param prior: p(z)
    :param actions: from :func:`skill_action_space`, (n,) where it is discrete, else (n, dim)
    :return: (n, dim), float32
    :raises ValueError: if an action is not the number of a skill, or a continuous one is not finite or of another shape
    """
    check_prior(prior)
    actions = check_numbers("actions", actions)
    if prior.discrete:
        numbers = actions.reshape(-1)
        if not np.isin(numbers, np.arange(prior.dim)).all():
            raise ValueError(f"actions must be the numbers of skills, from 0 to {prior.dim - 1}, got {numbers[:4]}")
        return np.eye(prior.dim, dtype=np.float32)[numbers.astype(np.int64)]
    if not actions.ndim or actions.shape[-1] != prior.dim:
        raise ValueError(f"actions must have shape (n, {prior.dim}) to choose skills, got {actions.shape}")
    actions = actions.reshape(-1, prior.dim).astype(np.float32)
    if isinstance(prior, GaussianPrior):
        return _GAUSSIAN_REACH * actions
    return prior.toward(actions)


class SkillActionWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """
    An environment whose action is a skill. A frozen policy follows it, by its mode, for ``skill_length`` steps.

    The reward is the sum over those steps. If the episode ends on the way, the step ends there. The policy sees what it
    was trained on: the whole observation, or the part ``observation_key`` of a dictionary, normalised by its stored
    statistics. ``info`` is that of the last step, with the ``"skill"`` and ``"skill_steps"``, the number of steps that
    it was followed.

    :param env: a task, with actions as the policy gives them
    :param model: what follows skills
    :param skill_length: steps of the environment that a skill is followed (the paper: 25)
    :param observation_key: where the policy's observation is in a dictionary that it was not trained on
    :raises ValueError: if the length is no positive integer, or the model belongs to another environment
    """

    def __init__(
        self, env: gym.Env[Any, Any], model: SkillModel, skill_length: int = 25, observation_key: str = "observation"
    ) -> None:
        if not isinstance(env, gym.Env):
            raise ValueError(f"env must be a Gymnasium environment, got {env!r}: SkillActionVecWrapper wraps a VecEnv")
        super().__init__(env)
        self.model, self.skill_length = model, check_count("skill_length", skill_length)
        check_text("observation_key", observation_key)
        self.action_space = skill_action_space(require_prior(model))
        self.low_level_key = check_fit(model, env.observation_space, env.action_space, observation_key)
        self._normalize = observation_normalizer(model)
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's ``reset``."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Follow a skill."""
        if self._observation is None:
            raise gym.error.ResetNeeded("Cannot call env.step() before calling env.reset()")
        (skill,) = to_skills(self.model.skill_prior, np.asarray(action)[None])
        total, steps = 0.0, 0
        while True:
            seen = self._normalize(_part(self._observation, self.low_level_key))
            low_level_action, _ = self.model.predict(seen, state=skill, deterministic=True)
            self._observation, reward, terminated, truncated, info = self.env.step(low_level_action)
            total, steps = total + float(reward), steps + 1
            if terminated or truncated or steps == self.skill_length:
                return self._observation, total, terminated, truncated, _tell(info, skill, steps)


class SkillActionVecWrapper(VecEnvWrapper):
    """
    :class:`SkillActionWrapper` for many environments, with one call of the frozen policy per step for all of them.

    If an episode ends on the way, that environment is reset and waits for the others.

    :param venv: tasks; a ``DummyVecEnv`` or ``SubprocVecEnv``, as from ``make_vec_env``. Other wrappers of vectorised
        environments, such as ``VecNormalize``, go around this one.
    :param model: what follows skills
    :param skill_length: steps of the environments that a skill is followed (the paper: 25)
    :param observation_key: where the policy's observation is in a dictionary that it was not trained on
    :raises ValueError: if the length is no positive integer, the model belongs to another environment, or the
        environments are wrapped already
    """

    def __init__(
        self, venv: VecEnv, model: SkillModel, skill_length: int = 25, observation_key: str = "observation"
    ) -> None:
        if isinstance(venv, VecEnvWrapper):
            raise ValueError(
                f"venv must be a DummyVecEnv or a SubprocVecEnv, got a {type(venv).__name__}: wrap the "
                "SkillActionVecWrapper with it instead"
            )
        if not isinstance(venv, VecEnv):
            raise ValueError(f"venv must be a DummyVecEnv or a SubprocVecEnv, as from make_vec_env, got {venv!r}")
        self.model, self.skill_length = model, check_count("skill_length", skill_length)
        check_text("observation_key", observation_key)
        prior = require_prior(model)
        self.low_level_key = check_fit(model, venv.observation_space, venv.action_space, observation_key)
        self._normalize = observation_normalizer(model)
        super().__init__(venv, action_space=skill_action_space(prior))
        self._observations: Any = None
        self._skills = np.zeros((venv.num_envs, model.skill_prior.dim), np.float32)

    def reset(self) -> Any:
        """As SB3's ``reset``."""
        self._observations = self.venv.reset()
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: one skill for each environment, from the action space
        """
        self._skills = to_skills(self.model.skill_prior, actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Follow the skills."""
        total = np.zeros(self.num_envs, np.float32)
        over = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        news: Sequence[dict[str, Any]]
        for steps in range(1, self.skill_length + 1):
            seen = self._normalize(_part(self._observations, self.low_level_key))
            actions, _ = self.model.predict(seen, state=self._skills, deterministic=True)
            running = np.flatnonzero(~over).tolist()
            if len(running) == self.num_envs:
                self._observations, rewards, over, news = self.venv.step(actions)
            else:
                rewards, news = self._step_some(running, actions, over)
            total += rewards
            for i in running:
                infos[i] = _tell(news[i], self._skills[i], steps)
            if over.all():
                break
        return self._observations, total, over, infos

    def _step_some(
        self, running: list[int], actions: np.ndarray, over: np.ndarray
    ) -> tuple[np.ndarray, Sequence[dict[str, Any]]]:
        """Step those environments whose episodes go on, as a ``VecEnv`` does, and note in ``over`` which end now."""
        rewards = np.zeros(self.num_envs, np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in running:
            (outcome,) = self.venv.env_method("step", actions[i], indices=[i])
            observation, rewards[i], terminated, truncated, info = outcome
            info["TimeLimit.truncated"] = truncated and not terminated
            over[i] = terminated or truncated
            if over[i]:
                info["terminal_observation"] = observation
                ((observation, reset_info),) = self.venv.env_method("reset", indices=[i])
                self.venv.reset_infos = [*self.venv.reset_infos[:i], reset_info, *self.venv.reset_infos[i + 1 :]]
            infos[i] = info
            if isinstance(self._observations, dict):
                for key, value in observation.items():
                    self._observations[key][i] = value
            else:
                self._observations[i] = observation
        return rewards, infos


def _part(observation: Any, key: str | None) -> Any:
    return observation if key is None else observation[key]


def _tell(info: dict[str, Any], skill: np.ndarray, steps: int) -> dict[str, Any]:
    return {**info, "skill": skill, "skill_steps": steps}
