"""All metrics of a repertoire of skills at once, as one dictionary, and a table with a row for each skill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_choice, check_flag
from sb3_metra.common.skill_model import Encoder, SkillModel, check_encoder, check_prior, encoder_of, require_prior
from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.coverage import achieved_tasks, cells, check_grid, draw_skills, state_coverage
from sb3_metra.evaluation.faithfulness import (
    constraint_violation,
    encode_trajectories,
    path_cosine,
    temporal_correlation,
)
from sb3_metra.evaluation.rollout import SkillTrajectory, check_trajectories, has_coordinates, rollout_skills


def evaluate_skills(
    model: SkillModel,
    env: VecEnv | gym.Env,
    n_skills: int = 48,
    seed: int | None = 0,
    *,
    phi: bool = True,
    max_episode_steps: int | None = None,
    progress_bar: bool = False,
    cell_size: float | Sequence[float] = 1.0,
    columns: Sequence[int] | None = None,
    constraint_norm: Literal["sum", "mean"] | None = None,
) -> dict[str, float]:
    """
    Roll out skills, one deterministic episode each, and compute all metrics that the environment and the model allow.

    :param model: an algorithm with a ``skill_prior``; phi is measured if it has ``encode``
    :param env: an environment, or a vectorised one
    :param n_skills: number of skills, drawn from p(z), or spread evenly if they are discrete
    :param seed: of the skills and of the environments' resets; ``None`` for another at every call
    :param phi: measure phi, too
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :param progress_bar: show a progress bar
    :param cell_size: as for :func:`.skill_metrics`
    :param columns: as for :func:`.skill_metrics`
    :param constraint_norm: as for :func:`.skill_metrics`; ``None``: the model's
    :return: metrics by name, see :func:`.skill_metrics`
    :raises ValueError: if an argument is wrong; the message names it
    """
    prior, norm = require_prior(model), constraint_norm_of(model) if constraint_norm is None else constraint_norm
    check_flag("phi", phi)
    check_grid(cell_size, columns)
    check_choice("constraint_norm", norm, ("sum", "mean"))
    skills = draw_skills(prior, n_skills, seed)
    trajectories = rollout_skills(
        model, env, skills, seed=seed, max_episode_steps=max_episode_steps, progress_bar=progress_bar
    )
    encode = encoder_of(model) if phi else None
    return skill_metrics(trajectories, prior, encode, cell_size=cell_size, columns=columns, constraint_norm=norm)


def constraint_norm_of(model: SkillModel) -> Literal["sum", "mean"]:
    """
    The norm in which a model holds its constraint; ``"sum"``, as in the paper, if it has none.

    :param model: an algorithm
    """
    return getattr(model, "constraint_norm", "sum")


def skill_metrics(
    trajectories: Sequence[SkillTrajectory],
    prior: SkillPrior | None = None,
    encode: Encoder | None = None,
    *,
    cell_size: float | Sequence[float] = 1.0,
    columns: Sequence[int] | None = None,
    constraint_norm: Literal["sum", "mean"] = "sum",
) -> dict[str, float]:
    """
    Metrics of a repertoire, by name.

    With ``info["coordinates"]``: ``policy_state_coverage``, ``distance`` and ``distance_max``. With ``info["tasks"]``:
    ``task_coverage``. With ``encode``: ``phi_violation`` and ``phi_temporal_correlation``, and with ``prior``, too, if
    phi has as many dimensions as a skill, ``phi_cosine``. Always: ``episode_return`` and ``episode_length``, means. The
    documentation defines each.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param prior: p(z), an algorithm's ``skill_prior``
    :param encode: phi, an algorithm's ``encode``
    :param cell_size: edge of a cell in the environment's unit, or one for each column
    :param columns: which coordinates to use for coverage and distance, by number; ``None``: all
    :param constraint_norm: as METRA's argument
    """
    _check(trajectories, prior, encode, cell_size, columns)
    check_choice("constraint_norm", constraint_norm, ("sum", "mean"))
    metrics: dict[str, float] = {}
    if has_coordinates(trajectories):
        metrics["policy_state_coverage"] = state_coverage((t.coordinates for t in trajectories), cell_size, columns)
        distances = [np.linalg.norm(np.subtract(*_places(t, columns)[[-1, 0]])) for t in trajectories]
        metrics |= {"distance": float(np.mean(distances)), "distance_max": float(np.max(distances))}
    if trajectories[0].tasks:
        metrics["task_coverage"] = len(achieved_tasks(trajectories))
    if encode is not None:
        paths = encode_trajectories(trajectories, encode)
        if prior is not None and paths[0].shape[1] == prior.dim:
            metrics["phi_cosine"] = float(path_cosine(paths, [t.skill for t in trajectories], prior).mean())
        metrics["phi_violation"] = constraint_violation(paths, constraint_norm)
        metrics["phi_temporal_correlation"] = temporal_correlation(paths)
    metrics["episode_return"] = float(np.mean([t.episode_return for t in trajectories]))
    metrics["episode_length"] = float(np.mean([len(t) for t in trajectories]))
    return metrics


def skill_table(
    trajectories: Sequence[SkillTrajectory],
    prior: SkillPrior | None = None,
    encode: Encoder | None = None,
    cell_size: float | Sequence[float] = 1.0,
    columns: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """
    What each skill did, one row each, ready for JSON or for pandas.

    Every row has ``skill``, ``episode_length`` and ``episode_return``. With coordinates: ``distance`` between the first
    place and the last, ``distance_max`` from the first place at any time, ``path_length``, ``straightness``, which is
    distance over path length (0 for a skill that never moves), and ``cells``. With tasks: ``tasks``, the names of those
    achieved. With ``prior`` and ``encode``: ``phi_cosine``.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param prior: p(z)
    :param encode: phi
    :param cell_size: edge of a cell in the environment's unit, or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    """
    _check(trajectories, prior, encode, cell_size, columns)
    placed = has_coordinates(trajectories)
    rows: list[dict[str, Any]] = []
    for trajectory in trajectories:
        row: dict[str, Any] = {
            "skill": [float(component) for component in trajectory.skill],
            "episode_length": len(trajectory),
            "episode_return": trajectory.episode_return,
        }
        if placed:
            row |= _path_statistics(_places(trajectory, columns))
            row["cells"] = len(np.unique(cells(trajectory.coordinates, cell_size, columns), axis=0))
        if trajectory.tasks:
            row["tasks"] = [name for name, achieved in trajectory.tasks.items() if achieved]
        rows.append(row)
    if prior is not None and encode is not None:
        paths = encode_trajectories(trajectories, encode)
        if paths[0].shape[1] == prior.dim:
            for row, cosine in zip(rows, path_cosine(paths, [t.skill for t in trajectories], prior), strict=True):
                row["phi_cosine"] = float(cosine)
    return rows


def _check(trajectories: Any, prior: Any, encode: Any, cell_size: Any, columns: Any) -> None:
    """Refuse trajectories that no metrics can be computed from."""
    check_trajectories(trajectories)
    if prior is not None:
        check_prior(prior)
    if encode is not None:
        check_encoder(encode)
    check_grid(cell_size, columns)
    if columns is not None and has_coordinates(trajectories):
        cells(trajectories[0].coordinates, cell_size, columns)


def headline(metrics: dict[str, float]) -> str | None:
    """
    The metric by which a repertoire is judged and the best model is kept: ``policy_state_coverage``, ``task_coverage``
    if there are tasks and no coordinates, ``None`` if there is neither.

    :param metrics: what :func:`skill_metrics` returns
    """
    return next((name for name in ("policy_state_coverage", "task_coverage") if name in metrics), None)


def judged_by(model: SkillModel, env: VecEnv | gym.Env, **kwargs: Any) -> str | None:
    """
    The metric that a repertoire is judged by in an environment, from one episode of one skill; see :func:`headline`.

    :param model: an algorithm with a ``skill_prior``
    :param env: an environment, or a vectorised one
    :param kwargs: of :func:`evaluate_skills`
    """
    return headline(evaluate_skills(model, env, n_skills=1, phi=False, **kwargs))


def _places(trajectory: SkillTrajectory, columns: Sequence[int] | None) -> np.ndarray:
    return trajectory.coordinates if columns is None else trajectory.coordinates[:, list(columns)]


def _path_statistics(places: np.ndarray) -> dict[str, float]:
    from_start = np.linalg.norm(places - places[0], axis=1)
    length = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    return {
        "distance": float(from_start[-1]),
        "distance_max": float(from_start.max()),
        "path_length": length,
        "straightness": float(from_start[-1]) / length if length > 0 else 0.0,
    }
