"""Hierarchical control: environments whose action is a skill, which a frozen policy follows for some steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_metra.common.skills import GaussianPrior, SkillPrior

_GAUSSIAN_REACH = 2.0  # standard deviations of a Gaussian skill's component that an action of 1 stands for


class SkillModel(Protocol):
    """What follows skills: every algorithm of this package, or whatever has SB3's ``predict`` and a prior."""

    @property
    def skill_prior(self) -> SkillPrior:
        """p(z)."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As SB3's ``predict``; ``state`` is the skill."""


def skill_action_space(prior: SkillPrior) -> spaces.Discrete | spaces.Box:
    """
    The actions that choose a skill.

    :param prior: p(z)
    :return: ``Discrete(dim)`` for discrete skills, else a box [-1, 1] of ``dim`` components
    """
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
    :raises ValueError: where a continuous action is not finite
    """
    if prior.discrete:
        return np.eye(prior.dim, dtype=np.float32)[np.asarray(actions, dtype=np.int64).reshape(-1)]
    actions = np.asarray(actions, dtype=np.float32).reshape(-1, prior.dim)
    if not np.isfinite(actions).all():
        raise ValueError("actions must be finite to choose skills, got NaN or infinity")
    if isinstance(prior, GaussianPrior):
        return _GAUSSIAN_REACH * actions
    return prior.toward(actions)


class SkillActionWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """
    An environment whose action is a skill. A frozen policy follows it, by its mode, for ``skill_length`` steps.

    The reward is the sum over those steps. Where the episode ends on the way, the step ends there and says so. The
    policy sees what it was trained on: the whole observation, or the part ``observation_key`` of a dictionary; what a
    task adds to it, such as a goal, is for whoever chooses the skills. ``info`` is that of the last step, with the
    ``"skill"`` and ``"skill_steps"``, the number of steps that it was followed.

    :param env: a task, with actions as the policy gives them
    :param model: what follows skills
    :param skill_length: steps of the environment that a skill is followed (the paper: 25)
    :param observation_key: where the policy's observation is in a dictionary that it was not trained on
    :raises ValueError: where the length is no positive integer, or the model belongs to another environment
    """

    def __init__(
        self, env: gym.Env[Any, Any], model: SkillModel, skill_length: int = 25, observation_key: str = "observation"
    ) -> None:
        super().__init__(env)
        self.model, self.skill_length = model, _positive(skill_length)
        self.low_level_key = check_fit(model, env.observation_space, env.action_space, observation_key)
        self.action_space = skill_action_space(model.skill_prior)
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
            seen = _part(self._observation, self.low_level_key)
            low_level_action, _ = self.model.predict(seen, state=skill, deterministic=True)
            self._observation, reward, terminated, truncated, info = self.env.step(low_level_action)
            total, steps = total + float(reward), steps + 1
            if terminated or truncated or steps == self.skill_length:
                return self._observation, total, terminated, truncated, _tell(info, skill, steps)


class SkillActionVecWrapper(VecEnvWrapper):
    """
    :class:`SkillActionWrapper` for many environments, with one call of the frozen policy for all of them at a step.

    Where an episode ends on the way, that environment is reset and waits, while the others go on.

    :param venv: tasks; a ``DummyVecEnv`` or ``SubprocVecEnv``, as from ``make_vec_env``. Other wrappers of vectorised
        environments, such as ``VecNormalize``, go around this one.
    :param model: what follows skills
    :param skill_length: steps of the environments that a skill is followed (the paper: 25)
    :param observation_key: where the policy's observation is in a dictionary that it was not trained on
    :raises ValueError: where the length is no positive integer, the model belongs to another environment, or the
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
        self.model, self.skill_length = model, _positive(skill_length)
        self.low_level_key = check_fit(model, venv.observation_space, venv.action_space, observation_key)
        super().__init__(venv, action_space=skill_action_space(model.skill_prior))
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
            seen = _part(self._observations, self.low_level_key)
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


def _positive(skill_length: int) -> int:
    if isinstance(skill_length, bool) or not isinstance(skill_length, (int, np.integer)) or skill_length < 1:
        raise ValueError(f"skill_length must be an integer of at least 1, got {skill_length!r}")
    return int(skill_length)


def check_fit(model: Any, observation_space: spaces.Space, action_space: spaces.Space, key: str) -> str | None:
    """
    Check that a model can act in an environment.

    :param model: any model; what it does not tell is not checked
    :param observation_space: of the environment
    :param action_space: of the environment
    :param key: where the model's observation is in a dictionary that it was not trained on
    :return: the key, or ``None`` where the model sees the whole observation
    :raises ValueError: where it cannot
    """
    acts_in = getattr(model, "action_space", action_space)
    if acts_in != action_space:
        raise ValueError(f"model must act in this environment's action space, {action_space}, got {acts_in}")
    in_part = isinstance(observation_space, spaces.Dict) and key in observation_space.spaces
    sees = getattr(model, "observation_space", observation_space[key] if in_part else observation_space)  # type: ignore[index]
    if _alike(sees, observation_space):
        return None
    if in_part and _alike(sees, observation_space[key]):  # type: ignore[index]
        return key
    raise ValueError(
        f"model must have learnt skills on the observations of this environment, {observation_space}, or on their part "
        f"{key!r}, got one that learnt on {sees}"
    )


def _alike(trained_on: spaces.Space, given: spaces.Space) -> bool:
    """Whether a policy for one space takes the other: equal, but for bounds and for the channel axis of images."""
    if not (isinstance(trained_on, spaces.Box) and isinstance(given, spaces.Box)):
        return trained_on == given
    channels_first = (given.shape[-1], *given.shape[:-1]) if len(given.shape) == 3 else given.shape
    return trained_on.dtype == given.dtype and trained_on.shape in (given.shape, channels_first)


def _part(observation: Any, key: str | None) -> Any:
    return observation if key is None else observation[key]


def _tell(info: dict[str, Any], skill: np.ndarray, steps: int) -> dict[str, Any]:
    return {**info, "skill": skill, "skill_steps": steps}
