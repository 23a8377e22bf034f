"""How well phi and the skills keep what they are trained for: direction, constraint, temporal distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch as th

from sb3_metra.common.inputs import check_choice, check_count, check_seed
from sb3_metra.common.skill_model import Encoder, check_encoder, check_prior
from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.episodes import batch
from sb3_metra.evaluation.rollout import SkillTrajectory, check_trajectories


def encode_trajectories(trajectories: Sequence[SkillTrajectory], encode: Encoder) -> list[np.ndarray]:
    """
    phi of every state.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param encode: phi
    :return: for each trajectory (T + 1, dim), float64
    """
    check_trajectories(trajectories)
    check_encoder(encode)
    return [np.asarray(encode(batch(t.observations)), dtype=np.float64) for t in trajectories]


def displacement_cosine(trajectories: Sequence[SkillTrajectory], encode: Encoder, prior: SkillPrior) -> np.ndarray:
    """
    Cosine between phi's displacement over a whole episode and the direction that its skill asks for.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param encode: phi
    :param prior: p(z), which gives a skill its direction
    :return: in [-1, 1], one for each trajectory; 0 where phi did not move
    """
    check_trajectories(trajectories)
    check_encoder(encode)
    ends = [encode(batch([t.observations[-1], t.observations[0]])) for t in trajectories]
    return path_cosine([np.asarray(pair)[::-1] for pair in ends], [t.skill for t in trajectories], prior)


def path_cosine(paths: Sequence[np.ndarray], skills: Sequence[np.ndarray], prior: SkillPrior) -> np.ndarray:
    """
    The same for what is encoded already.

    :param paths: phi of each trajectory's states, (T + 1, dim); only the first and the last are looked at
    :param skills: one for each path, (skill_dim,)
    :param prior: p(z), which gives a skill its direction
    :return: in [-1, 1], one for each path; 0 where phi did not move
    """
    check_prior(prior)
    moves = np.stack([path[-1] - path[0] for path in _checked(paths)]).astype(np.float64)
    if moves.shape[1] != prior.dim:
        raise ValueError(f"paths must have the {prior.dim} dimensions of the prior's skills, got {moves.shape[1]}")
    directions = prior.embed(th.as_tensor(np.stack(skills))).numpy()
    norms = np.linalg.norm(moves, axis=1) * np.linalg.norm(directions, axis=1)
    return (moves * directions).sum(axis=1) / np.where(norms > 0, norms, 1.0)


def constraint_violation(paths: Sequence[np.ndarray], norm: Literal["sum", "mean"] = "sum") -> float:
    """
    Share of steps that violate the constraint ``||phi(s') - phi(s)||^2 <= 1``.

    :param paths: phi of each trajectory's states, (T + 1, dim), see :func:`encode_trajectories`
    :param norm: ``"sum"``: the squares are added up, as the paper writes; ``"mean"``: averaged over phi's dimensions,
        as the METRA authors' code does
    :return: in [0, 1]
    """
    check_choice("norm", norm, ("sum", "mean"))
    steps = np.concatenate([np.diff(path, axis=0) for path in _checked(paths)])
    squares = np.square(steps)
    lengths = squares.sum(axis=1) if norm == "sum" else squares.mean(axis=1)
    return float((lengths > 1.0).mean())


def temporal_correlation(
    paths: Sequence[np.ndarray],
    method: Literal["pearson", "spearman"] = "pearson",
    max_pairs: int = 200_000,
    seed: int = 0,
) -> float:
    """
    Correlation between ``||phi(s_i) - phi(s_j)||`` and the number of steps ``|i - j|``, over pairs of one trajectory.

    phi is learnt to be bounded by temporal distance; 1 says that it is proportional to it along the skills' paths.

    :param paths: phi of each trajectory's states, (T + 1, dim), see :func:`encode_trajectories`
    :param method: Pearson's correlation of the values, or Spearman's of their ranks
    :param max_pairs: use at most this many pairs, drawn at random
    :param seed: of the draw
    :return: in [-1, 1]; NaN if either does not vary
    """
    check_choice("method", method, ("pearson", "spearman"))
    check_count("max_pairs", max_pairs)
    check_seed("seed", seed)
    rng, limit = np.random.default_rng(seed), max(1, max_pairs // len(_checked(paths)))
    distances, gaps = [], []
    for path in paths:
        first, second = np.triu_indices(len(path), k=1)
        if len(first) > limit:
            chosen = rng.choice(len(first), limit, replace=False)
            first, second = first[chosen], second[chosen]
        distances.append(np.linalg.norm(path[second] - path[first], axis=1))
        gaps.append((second - first).astype(np.float64))
    x, y = np.concatenate(distances), np.concatenate(gaps)
    if method == "spearman":
        x, y = _ranks(x), _ranks(y)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def _checked(paths: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Refuse values that are not paths of phi."""
    if not isinstance(paths, Sequence) or not len(paths) or any(np.ndim(path) != 2 or len(path) < 2 for path in paths):
        raise ValueError(
            "paths must each have shape (T + 1, dim) with T >= 1, at least one of them, got "
            f"{[np.shape(path) for path in paths][:4] if isinstance(paths, Sequence) else paths!r}"
        )
    return paths
