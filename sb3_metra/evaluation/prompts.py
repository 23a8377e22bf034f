"""The skill for a reward: roll out some skills, fit the reward of their steps, and try the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_place
from sb3_metra.common.skill_model import as_vec_env, require_prior
from sb3_metra.evaluation.coverage import draw_skills
from sb3_metra.evaluation.episodes import batch
from sb3_metra.evaluation.metadata import frames_per_second_of
from sb3_metra.evaluation.quantities import Quantities, parse_expression, step_quantities
from sb3_metra.evaluation.rollout import rollout_skills


@dataclass
class Answer:
    """
    The skill for a reward.

    :param skill: (skill_dim,)
    :param reward: mean reward of a step in an episode of it
    :param rewards: that of each skill that was rolled out to find it, (n,)
    """

    skill: np.ndarray
    reward: float
    rewards: np.ndarray


def prompt_skill(
    model: Any,
    env: VecEnv | gym.Env,
    reward: str,
    n_skills: int = 16,
    *,
    seed: int | None = 0,
    max_episode_steps: int | None = None,
) -> Answer:
    """
    The skill that a reward of named quantities asks for, and how well it does.

    :param model: an algorithm with phi
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]``
    :param reward: arithmetic over ``x``, ``y``, ``vx``, ``vy``, ``speed``, ``heading``, see
        :func:`~sb3_metra.evaluation.quantities.parse_expression`
    :param n_skills: number of skills that are rolled out to fit the reward
    :param seed: of these skills and of the environments' resets
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :raises ValueError: if the reward cannot be read or is constant, or the environment reports no coordinates
    """
    env = as_vec_env(env)
    options: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
    skills = draw_skills(require_prior(model), n_skills, seed)
    env.reset()
    value = _read_reward(reward, env.unwrapped.reset_infos[0])
    rate = frames_per_second_of(env)
    trajectories = rollout_skills(model, env, skills, **options)
    values = [value(step_quantities(t.coordinates, rate)) for t in trajectories]
    before = batch([x for t in trajectories for x in t.observations[:-1]])
    after = batch([x for t in trajectories for x in t.observations[1:]])
    skill = model.infer_skill(reward=np.concatenate(values), observations=before, next_observations=after)
    (answered,) = rollout_skills(model, env, skill[None], **options)
    tried = np.array([x.mean() for x in values])
    return Answer(skill, float(value(step_quantities(answered.coordinates, rate)).mean()), tried)


def _read_reward(reward: str, info: dict[str, Any]) -> Callable[[Quantities], np.ndarray]:
    """The reward of steps in an environment, whose ``info`` at a reset is known."""
    if "coordinates" not in info:
        raise ValueError('env must report info["coordinates"] for rewards of named quantities, got none')
    place = check_place('info["coordinates"]', info["coordinates"])
    return parse_expression(reward, list(step_quantities(np.stack([place, place]))))
