"""How faithfully skills move phi the way they ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch as th

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.rollout import SkillTrajectory


def displacement_cosine(
    trajectories: Sequence[SkillTrajectory], encode: Callable[[np.ndarray], np.ndarray], prior: SkillPrior
) -> np.ndarray:
    """
    Cosine between phi's displacement over a whole episode and the direction that its skill asks for.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param encode: phi, from observations (n, \\*obs_shape) to (n, dim)
    :param prior: p(z), which gives a skill its direction
    :return: in [-1, 1], one for each trajectory; 0 where phi did not move
    """
    moves = np.stack([np.subtract(*encode(t.observations[[-1, 0]])) for t in trajectories]).astype(np.float64)
    directions = prior.embed(th.as_tensor(np.stack([t.skill for t in trajectories]))).numpy()
    norms = np.linalg.norm(moves, axis=1) * np.linalg.norm(directions, axis=1)
    return (moves * directions).sum(axis=1) / np.where(norms > 0, norms, 1.0)
