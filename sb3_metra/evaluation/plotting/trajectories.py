"""Where skills go: in the plane, over time, or one panel for each skill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_metra.evaluation.coverage import check_grid
from sb3_metra.evaluation.plotting.style import (
    Theme,
    draw_skill_key,
    save_figure,
    skill_colors,
    themed,
)
from sb3_metra.evaluation.rollout import SkillTrajectory, check_trajectories
from sb3_metra.evaluation.skills import is_one_hot


def plot_trajectories(
    trajectories: Sequence[SkillTrajectory],
    path: str | Path | None = None,
    title: str | None = None,
    *,
    columns: Sequence[int] | None = None,
    theme: Theme = "light",
) -> Figure:
    """
    Where each skill goes, coloured by skill, with a key to the colours: y over x, or x over time if there is one
    coordinate.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param path: where to write the picture; its ending chooses the format: PNG, SVG, PDF, ...
    :param title: a line above it
    :param columns: which one or two coordinates to draw, by number; ``None``: the first two
    :param theme: ``"light"`` or ``"dark"``
    :raises ValueError: if there is nothing to draw
    """
    paths, names = _paths(trajectories, columns)
    return picture_paths(paths, names, np.stack([t.skill for t in trajectories]), path, title, theme)


def picture_paths(
    paths: Sequence[np.ndarray],
    names: tuple[str, str],
    skills: np.ndarray,
    path: str | Path | None,
    title: str | None,
    theme: Theme,
) -> Figure:
    """
    Paths coloured by skill, with a key to the colours.

    :param paths: of each trajectory, (T + 1, 2)
    :param names: what the two axes show
    :param skills: of each trajectory, (n, skill_dim)
    :param path: where to write the picture
    :param title: a line above it
    :param theme: ``"light"`` or ``"dark"``
    """
    with themed(theme):
        figure = Figure(figsize=(6.4, 5.0), layout="constrained")
        axes, key = figure.subplots(1, 2, width_ratios=[4.2, 1.0])
        draw_paths(axes, paths, skill_colors(skills, theme), names)
        draw_skill_key(key, skills, theme)
        if title:
            axes.set_title(title)
        return save_figure(figure, path)


def plot_small_multiples(
    trajectories: Sequence[SkillTrajectory],
    path: str | Path | None = None,
    title: str | None = None,
    *,
    columns: Sequence[int] | None = None,
    theme: Theme = "light",
) -> Figure:
    """
    One panel for each discrete skill: its own episodes in colour, those of all others in grey.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns, of one-hot skills
    :param path: where to write the picture; its ending chooses the format: PNG, SVG, PDF, ...
    :param title: a line above it
    :param columns: which one or two coordinates to draw, by number; ``None``: the first two
    :param theme: ``"light"`` or ``"dark"``
    :raises ValueError: if there is nothing to draw, or skills are not one-hot
    """
    paths, names = _paths(trajectories, columns)
    skills = np.stack([t.skill for t in trajectories])
    if not is_one_hot(skills):
        raise ValueError(f"skills must be one-hot for a panel each, got {skills[0].tolist()}: use plot_trajectories")
    numbers = skills.argmax(axis=1)
    shown = np.unique(numbers)
    n_columns = min(len(shown), max(4, math.ceil(math.sqrt(len(shown)))))
    n_rows = math.ceil(len(shown) / n_columns)
    with themed(theme):
        figure = Figure(figsize=(1.6 * n_columns + 0.6, 1.5 * n_rows + 0.7), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
        colors = skill_colors(skills, theme)
        for panel, number in zip(panels, shown, strict=False):
            own = numbers == number
            for line in (p for p, mine in zip(paths, own, strict=True) if not mine):
                panel.plot(*line.T, color="0.6", linewidth=0.5, alpha=0.35)
            draw_paths(panel, [p for p, mine in zip(paths, own, strict=True) if mine], colors[own], None)
            panel.set_title(f"skill {number}", fontsize=8.0)
            panel.tick_params(labelsize=7.0)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        if names[0] != "step":
            for panel in panels[: len(shown)]:
                panel.set_aspect("equal", adjustable="box")
        figure.supxlabel(names[0], fontsize=9.0)
        figure.supylabel(names[1], fontsize=9.0)
        if title:
            figure.suptitle(title, fontsize=10.0)
        return save_figure(figure, path)


def draw_paths(axes: Axes, paths: Sequence[np.ndarray], colors: np.ndarray, names: tuple[str, str] | None) -> None:
    """
    Lines with a dot where each ends.

    :param axes: to draw into
    :param paths: each (n, 2)
    :param colors: one a path, (number of paths, 3)
    :param names: of the two axes, which are to scale unless the first is ``"step"``; ``None``: leave the axes alone
    """
    for line, color in zip(paths, colors, strict=True):
        axes.plot(*line.T, color=color, linewidth=1.1, alpha=0.85)
        axes.plot(*line[-1], marker="o", markersize=3.0, color=color)
    if names is not None:
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.set_aspect("auto" if names[0] == "step" else "equal", adjustable="datalim")


def _paths(
    trajectories: Sequence[SkillTrajectory], columns: Sequence[int] | None
) -> tuple[list[np.ndarray], tuple[str, str]]:
    """What to draw of each trajectory, (T + 1, 2), and the axes' names."""
    check_trajectories(trajectories)
    check_grid(1.0, columns)
    if any(t.coordinates.ndim != 2 for t in trajectories):
        raise ValueError('trajectories must have coordinates, got none: the environment reports no info["coordinates"]')
    available = trajectories[0].coordinates.shape[1]
    chosen = list(range(min(2, available))) if columns is None else list(columns)[:2]
    if max(chosen) >= available:
        raise ValueError(f"columns must be among 0 to {available - 1}, got {list(columns or [])}")
    names = ["xyz"[column] if column < 3 else f"coordinate {column}" for column in chosen]
    if len(chosen) == 1:
        return [over_time(t.coordinates[:, chosen[0]]) for t in trajectories], ("step", names[0])
    return [t.coordinates[:, chosen] for t in trajectories], (names[0], names[1])


def over_time(values: np.ndarray) -> np.ndarray:
    """
    Values beside their number.

    :param values: (n,)
    :return: (n, 2)
    """
    return np.stack([np.arange(len(values), dtype=np.float64), values], axis=1)
