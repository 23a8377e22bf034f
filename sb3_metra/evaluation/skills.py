"""Which skills show a repertoire, and what pictures say of a skill: its angle, and whether it is one of a few."""

from __future__ import annotations

import numpy as np

from sb3_metra.common.inputs import check_count, check_numbers, check_seed
from sb3_metra.common.skill_model import check_prior
from sb3_metra.common.skills import SkillPrior

_N_ON_CIRCLE, _N_IN_SPACE, _N_DISCRETE = 24, 32, 48  # as many as one page shows well
_N_CANDIDATES = 2048


def skills_to_show(prior: SkillPrior, n: int | None = None, seed: int = 0) -> np.ndarray:
    """
    Skills spread evenly: discrete ones in order, both ends of a line, points on a circle starting at the first axis, or
    directions that are far from each other.

    :param prior: p(z)
    :param n: the most skills; ``None``: as many as a page shows well
    :param seed: of directions in more than two dimensions
    :return: (n, skill_dim), float32; at most as many as there are skills
    :raises ValueError: if ``n`` is no positive integer
    """
    check_prior(prior)
    check_seed("seed", seed)
    if n is not None:
        check_count("n", n)
    if prior.discrete:
        return prior.evaluation_skills(min(prior.dim, n or _N_DISCRETE))
    if prior.dim == 1:
        return prior.toward(np.array([[-1.0], [1.0]])[:n])
    if prior.dim == 2:
        angles = np.arange(n or _N_ON_CIRCLE) * (2 * np.pi / (n or _N_ON_CIRCLE))
        return prior.toward(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return prior.toward(_far_apart(n or _N_IN_SPACE, prior.dim, np.random.default_rng(seed)))


def _far_apart(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Directions, each as far as possible from those before it."""
    candidates = rng.standard_normal((max(_N_CANDIDATES, n), dim))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    chosen = [0]
    nearest = candidates @ candidates[0]
    while len(chosen) < n:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, candidates @ candidates[chosen[-1]])
    return candidates[chosen]


def is_one_hot(skills: np.ndarray) -> bool:
    """
    Whether skills are one-hot, of two or more components.

    :param skills: (n, skill_dim)
    """
    values = ((skills == 0) | (skills == 1)).all()
    return bool(skills.shape[1] > 1 and values and (skills.sum(axis=1) == 1).all())


def skill_angles(skills: np.ndarray) -> np.ndarray:
    """
    An angle for each skill, for pictures: that of the first two components, the number of a one-hot skill around the
    circle, or 0 and pi for the two ends of a line.

    :param skills: (n, skill_dim)
    :return: in radians, (n,)
    :raises ValueError: unless they are a table of finite numbers
    """
    if np.ndim(skills) != 2 or not np.size(skills):
        raise ValueError(f"skills must have shape (n, skill_dim), got {np.shape(skills)}")
    skills = check_numbers("skills", skills)
    if skills.shape[1] == 1:  # as far apart as can be
        return np.where(skills[:, 0] < 0, np.pi, 0.0)
    if is_one_hot(skills):
        return skills.argmax(axis=1) * 2 * np.pi / skills.shape[1]
    return np.arctan2(skills[:, 1], skills[:, 0])
