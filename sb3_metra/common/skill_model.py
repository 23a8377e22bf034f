"""The model that evaluation and downstream tasks need: it follows skills. Its further abilities are optional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_metra.common.skills import SkillPrior

#: phi, from a batch of observations, (n, \*obs_shape) or a dictionary of such, to (n, dim): an algorithm's ``encode``.
Encoder = Callable[[Any], np.ndarray]

_NORMALIZATION = ("training", "norm_reward", "obs_rms", "clip_obs", "epsilon")


class SkillModel(Protocol):
    """
    What follows skills: every algorithm of this package, or anything with SB3's ``predict`` and a prior.

    Two more abilities are used if a model has them: ``encode``, which is phi (see ``encoder_of``), and
    ``normalization``, the statistics of the observations that it learnt on (see ``as_learnt``).
    """

    @property
    def skill_prior(self) -> SkillPrior:
        """p(z)."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As SB3's ``predict``; ``state`` is the skill."""


def encoder_of(model: SkillModel) -> Encoder | None:
    """
    phi of a model.

    :param model: what follows skills
    :return: its ``encode``; ``None`` if it learns no phi
    """
    return getattr(model, "encode", None)


def require_encoder(model: SkillModel, purpose: str) -> Encoder:
    """
    phi of a model that needs one.

    :param model: what follows skills
    :param purpose: what phi is needed for, in a few words
    :return: its ``encode``
    :raises ValueError: if it learns no phi
    """
    encode = encoder_of(model)
    if encode is None:
        raise ValueError(f"model must have a method encode for {purpose}, got {type(model).__name__}, which has none")
    return encode


def check_prior(prior: Any) -> SkillPrior:
    """
    Refuse what is no prior.

    :param prior: what came as p(z)
    :raises ValueError: if it is something else
    """
    if not isinstance(prior, SkillPrior):
        raise ValueError(f"prior must be a SkillPrior, such as model.skill_prior, got {prior!r}")
    return prior


def check_encoder(encode: Any) -> Encoder:
    """
    Refuse what is no phi.

    :param encode: what came as phi
    :raises ValueError: if it cannot be called
    """
    if not callable(encode):
        raise ValueError(f"encode must be a function of observations, such as model.encode, got {encode!r}")
    return encode


def require_prior(model: SkillModel) -> SkillPrior:
    """
    p(z) of a model.

    :param model: what follows skills
    :raises ValueError: if what came follows none
    """
    prior = getattr(model, "skill_prior", None)
    if not isinstance(prior, SkillPrior) or not callable(getattr(model, "predict", None)):
        raise ValueError(f"model must have predict and a skill_prior, got {_short(model)}")
    return prior


def as_vec_env(env: VecEnv | gym.Env) -> VecEnv:
    """
    An environment as a vectorised one.

    :param env: an environment, or a vectorised one
    :raises ValueError: if it is neither
    """
    if isinstance(env, VecEnv):
        return env
    if not isinstance(env, gym.Env):
        raise ValueError(f"env must be a Gymnasium environment or a VecEnv of SB3, got {_short(env)}")
    return DummyVecEnv([lambda: env])


@contextmanager
def as_learnt(model: Any, env: VecEnv | gym.Env) -> Iterator[VecEnv]:
    """
    While it is open, an environment shows a model observations as those that it learnt on.

    A model that learnt on normalised observations carries their statistics as ``normalization``. An environment
    without a ``VecNormalize`` gets one with these statistics. One that has another uses them for as long as this is
    open. Rewards are the environment's own, and nothing is learnt about either.

    :param model: what acts
    :param env: an environment, or a vectorised one
    :return: a vectorised environment
    :raises ValueError: if the model cannot act there, or an environment would continue to learn statistics
    """
    vec_env = as_vec_env(env)
    check_fit(model, vec_env.observation_space, vec_env.action_space)
    learnt_on, normalizer = getattr(model, "normalization", None), unwrap_vec_normalize(vec_env)
    if normalizer is None:
        yield vec_env if learnt_on is None else learnt_on.wrap(vec_env)
        return
    if learnt_on is None and normalizer.training:
        raise ValueError("env must be a VecNormalize with training=False, got training=True: rollouts would change it")
    before = {name: value for name, value in vars(normalizer).items() if name in _NORMALIZATION}
    try:
        normalizer.training = normalizer.norm_reward = False
        if learnt_on is None:
            yield vec_env
        elif normalizer.norm_obs:
            learnt_on.apply_to(normalizer)
            yield vec_env
        else:
            yield learnt_on.wrap(vec_env)
    finally:
        vars(normalizer).update(before)


def observation_normalizer(model: Any) -> Callable[[Any], Any]:
    """
    How a model's observations are normalised, for those that come from no vectorised environment.

    :param model: what acts
    :return: from observations of the model's space, one or a batch, to what it learnt on
    """
    learnt_on = getattr(model, "normalization", None)
    return (lambda observation: observation) if learnt_on is None else learnt_on.normalize


def check_fit(model: Any, observation_space: spaces.Space, action_space: spaces.Space, key: str = "") -> str | None:
    """
    Check that a model can act in an environment.

    :param model: any model; what it does not tell is not checked
    :param observation_space: of the environment
    :param action_space: of the environment
    :param key: where the model's observation is in a dictionary that it was not trained on, if there may be one
    :return: the key, or ``None`` if the model sees the whole observation
    :raises ValueError: if it cannot
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
    part = f", or on their part {key!r}" if key else ""
    raise ValueError(
        f"model must have learnt skills on the observations of this environment, {observation_space}{part}, got one "
        f"that learnt on {sees}"
    )


def _alike(trained_on: spaces.Space, given: spaces.Space) -> bool:
    """Whether a policy for one space takes the other: equal, but for bounds and for the channel axis of images."""
    if isinstance(trained_on, spaces.Dict) and isinstance(given, spaces.Dict):
        return trained_on.keys() == given.keys() and all(_alike(trained_on[key], given[key]) for key in given)
    if not (isinstance(trained_on, spaces.Box) and isinstance(given, spaces.Box)):
        return trained_on == given
    channels_first = (given.shape[-1], *given.shape[:-1]) if len(given.shape) == 3 else given.shape
    return trained_on.dtype.kind == given.dtype.kind and trained_on.shape in (given.shape, channels_first)


def _short(value: Any) -> str:
    """What came, in a few words."""
    return repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
