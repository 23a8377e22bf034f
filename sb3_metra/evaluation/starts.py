"""Whether a skill does the same wherever it starts: the spread of its displacement over random places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_count, check_numbers, check_seed
from sb3_metra.common.skill_model import SkillModel, as_learnt, as_vec_env, require_prior
from sb3_metra.evaluation.coverage import draw_skills
from sb3_metra.evaluation.episodes import EpisodeRecord, StepLimit, run_episodes
from sb3_metra.evaluation.goals import sample_goals
from sb3_metra.evaluation.metadata import goal_range_of


def start_spread(displacements: np.ndarray) -> np.ndarray:
    """
    How much each skill's displacement depends on where it starts: the root mean square distance of its displacements
    from their mean, over their root mean square length.

    :param displacements: last place minus first, (n_skills, n_starts, k)
    :return: (n_skills,), from 0, the same from everywhere, to 1, no common direction; 0 for a skill that stays
    :raises ValueError: if they have another shape
    """
    moved = check_numbers("displacements", displacements, ndim=3)
    square = (moved**2).sum(axis=2).mean(axis=1)
    spread = ((moved - moved.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1)
    return np.sqrt(spread / np.where(square > 0, square, 1.0))


def evaluate_starts(
    model: SkillModel,
    env: VecEnv | gym.Env,
    n_skills: int = 8,
    n_starts: int = 8,
    *,
    start_range: Sequence[float] | None = None,
    seed: int | None = 0,
    max_episode_steps: int | None = None,
) -> dict[str, Any]:
    """
    Follow each of some skills from each of some places, drawn from a box about the origin, and measure the spread.

    :param model: the policy over states and skills
    :param env: an environment, or a vectorised one, whose episodes begin at ``reset(options={"place": ...})`` and which
        reports ``info["coordinates"]``
    :param n_skills: number of skills
    :param n_starts: number of places, the same for all skills
    :param start_range: how far places lie at most along each coordinate; ``None``: as goals, see
        :func:`~sb3_metra.evaluation.metadata.goal_range_of`
    :param seed: of skills, places and resets
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :return: ``start_spread``, the mean over skills, ``start_spread_by_skill``, and ``distance``, how far episodes get
    :raises ValueError: if the environment ignores the place of a reset, or reports no coordinates
    """
    check_count("n_starts", n_starts, 2)
    skills, given = draw_skills(require_prior(model), n_skills, check_seed("seed", seed)), as_vec_env(env)
    given.seed(seed)
    given.reset()
    half_widths = goal_range_of(given) if start_range is None else tuple(start_range)
    if half_widths is None:
        raise ValueError("start_range must be given for an environment without metadata['goal_range'], got None")
    places = sample_goals(half_widths, n_starts, np.random.default_rng(seed))
    jobs = [(skill, place) for skill in skills for place in places]
    with as_learnt(model, given) as vec_env:
        limit, records = StepLimit(vec_env, max_episode_steps), []
        for begin in range(0, len(jobs), vec_env.num_envs):
            records += _run(model, vec_env, jobs[begin : begin + vec_env.num_envs], limit)
    ways = [np.asarray(record.coordinates) for record in records]
    displacements = np.array([way[-1] - way[0] for way in ways]).reshape(n_skills, n_starts, -1)
    by_skill = start_spread(displacements)
    distance = float(np.linalg.norm(displacements, axis=2).mean())
    return {"start_spread": float(by_skill.mean()), "distance": distance, "start_spread_by_skill": by_skill.tolist()}


def _run(model: SkillModel, env: VecEnv, jobs: list[Any], limit: StepLimit) -> list[EpisodeRecord]:
    """One episode for each pair of a skill and a place; spare environments follow the first, unrecorded."""
    padded = jobs + jobs[:1] * (env.num_envs - len(jobs))
    skills = np.stack([skill for skill, _ in padded])
    env.unwrapped.set_options([{"place": place} for _, place in padded])

    def act(observation: Any, _: Any) -> tuple[np.ndarray, Any]:
        return model.predict(observation, state=skills, deterministic=True)

    records = run_episodes(act, env, len(jobs), limit)
    for record, (_, place) in zip(records, jobs, strict=True):
        first = record.coordinates[0] if record.coordinates else None
        if first is None or first.shape != place.shape or np.abs(first - place).max() > 1.0:
            raise ValueError(
                f"env must begin where reset(options={{'place': {place.tolist()}}}) says and report "
                f'info["coordinates"], got {first}'
            )
    return records
