"""The skill for a reward: roll out some skills, fit the reward of their steps, and try the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_count, check_place
from sb3_metra.common.skill_model import as_vec_env, require_prior
from sb3_metra.evaluation.coverage import draw_skills
from sb3_metra.evaluation.episodes import batch
from sb3_metra.evaluation.metadata import frames_per_second_of
from sb3_metra.evaluation.quantities import Quantities, parse_expression, step_quantities
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills


@dataclass
class Answer:
    """
    The skill for a reward.

    :param skill: (skill_dim,)
    :param reward: mean reward of a step that follows it
    :param best_reward: that of the best of the skills that were rolled out to find it, followed again from the same
        starts; its first episode was the luckiest of many
    :param rewards: mean reward of a step in the first episode of each of them, (n_skills,)
    """

    skill: np.ndarray
    reward: float
    best_reward: float
    rewards: np.ndarray


def prompt_skill(
    model: Any,
    env: VecEnv | gym.Env,
    reward: str,
    n_skills: int = 16,
    *,
    n_episodes: int = 8,
    seed: int | None = 0,
    max_episode_steps: int | None = None,
) -> Answer:
    """
    The skill that a reward of named quantities asks for, and how well it does.

    :param model: an algorithm with phi
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]``
    :param reward: arithmetic over ``x``, ``y``, ``vx``, ``vy``, ``speed``, ``heading``, see
        :func:`~sb3_metra.evaluation.quantities.parse_expression`
    :param n_skills: number of skills that are rolled out to fit the reward, an episode each
    :param n_episodes: number of episodes, from other starts, in which the answer and the best of them are compared
    :param seed: of these skills and of the environments' resets
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :raises ValueError: if the reward cannot be read or is constant, or the environment reports no coordinates
    """
    env = as_vec_env(env)
    n_episodes = check_count("n_episodes", n_episodes)
    skills = draw_skills(require_prior(model), n_skills, seed)
    env.reset()
    value = _read_reward(reward, env.unwrapped.reset_infos[0])
    rate = frames_per_second_of(env)

    def follow(skills: np.ndarray, seed: int | None) -> tuple[list[SkillTrajectory], list[np.ndarray]]:
        trajectories = rollout_skills(model, env, skills, seed=seed, max_episode_steps=max_episode_steps)
        return trajectories, [value(step_quantities(t.coordinates, rate)) for t in trajectories]

    trajectories, values = follow(skills, seed)
    before = batch([x for t in trajectories for x in t.observations[:-1]])
    after = batch([x for t in trajectories for x in t.observations[1:]])
    skill = model.infer_skill(reward=np.concatenate(values), observations=before, next_observations=after)
    rewards = np.array([x.mean() for x in values])
    starts = None if seed is None else (seed + env.num_envs) % 2**32  # each environment's own, from there on
    own, best = (
        float(np.concatenate(follow(np.tile(z, (n_episodes, 1)), starts)[1]).mean())
        for z in (skill, skills[rewards.argmax()])
    )
    return Answer(skill, own, best, rewards)


def _read_reward(reward: str, info: dict[str, Any]) -> Callable[[Quantities], np.ndarray]:
    """The reward of steps in an environment, whose ``info`` at a reset is known."""
    if "coordinates" not in info:
        raise ValueError('env must report info["coordinates"] for rewards of named quantities, got none')
    place = check_place('info["coordinates"]', info["coordinates"])
    return parse_expression(reward, list(step_quantities(np.stack([place, place]))))
