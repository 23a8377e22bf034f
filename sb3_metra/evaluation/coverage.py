"""State coverage, the paper's metric of a repertoire: how many unit cells its episodes visit."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.rollout import SkillPredictor, rollout_skills


def state_coverage(coordinates: Iterable[np.ndarray], cell_size: float = 1.0) -> int:
    """
    Number of distinct cells, ``floor(coordinates / cell_size)``, that trajectories visit.

    :param coordinates: for each trajectory its places, first and final state included, (T + 1, k)
    :param cell_size: edge of a cell, in the environment's unit (the paper: 1)
    :raises ValueError: where a trajectory has no coordinates, or they are not finite
    """
    if not np.isfinite(cell_size) or cell_size <= 0:
        raise ValueError(f"cell_size must be a finite number greater than 0, got {cell_size!r}")
    cells = []
    for places in coordinates:
        places = np.asarray(places, dtype=np.float64)
        if places.ndim != 2 or not len(places):
            raise ValueError(
                f"coordinates must have shape (T + 1, k) for each trajectory, got {places.shape}; the environment has "
                'to report them as info["coordinates"] at every step and at the reset'
            )
        if not np.isfinite(places).all():
            raise ValueError("coordinates must be finite, got NaN or infinity")
        cells.append(np.floor(places / cell_size).astype(np.int64))
    return len(np.unique(np.concatenate(cells), axis=0)) if cells else 0


def policy_state_coverage(
    model: SkillPredictor,
    env: VecEnv | gym.Env,
    prior: SkillPrior,
    n_skills: int = 48,
    seed: int | None = 0,
    cell_size: float = 1.0,
) -> int:
    """
    Cells visited by one deterministic episode for each of ``n_skills`` skills (METRA paper, appendix on metrics):
    skills drawn from p(z), or spread evenly where they are discrete.

    :param model: the policy
    :param env: an environment, or a vectorised one, that reports ``info["coordinates"]``
    :param prior: p(z), an algorithm's ``skill_prior``
    :param n_skills: number of skills
    :param seed: of the skills and of the environments' resets; ``None`` for another at every call
    :param cell_size: edge of a cell, in the environment's unit
    """
    skills = prior.evaluation_skills(n_skills, np.random.default_rng(seed))
    trajectories = rollout_skills(model, env, skills, seed=seed)
    return state_coverage((trajectory.coordinates for trajectory in trajectories), cell_size)
