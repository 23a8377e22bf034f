"""Where skills go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_metra.evaluation.plotting.style import save_figure, skill_colors
from sb3_metra.evaluation.rollout import SkillTrajectory


def plot_trajectories(
    trajectories: Sequence[SkillTrajectory],
    path: str | Path | None = None,
    title: str | None = None,
) -> Figure:
    """
    Where each skill goes, coloured by skill: x over y, or x over time where there is one coordinate.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param path: where to write the picture; its ending chooses the format, PNG, SVG or PDF
    :param title: a line above it
    :raises ValueError: where there is nothing to draw
    """
    if not trajectories or any(t.coordinates.ndim != 2 for t in trajectories):
        raise ValueError('trajectories must have coordinates, got none: the environment reports no info["coordinates"]')
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    colors = skill_colors(np.stack([t.skill for t in trajectories]))
    planar = trajectories[0].coordinates.shape[1] > 1
    for trajectory, color in zip(trajectories, colors, strict=True):
        places = trajectory.coordinates
        x, y = (places[:, 0], places[:, 1]) if planar else (np.arange(len(places)), places[:, 0])
        axes.plot(x, y, color=color, linewidth=1.2, alpha=0.8)
        axes.plot(x[-1], y[-1], marker="o", markersize=3, color=color)
    axes.set_xlabel("x" if planar else "step")
    axes.set_ylabel("y" if planar else "x")
    axes.set_aspect("equal" if planar else "auto", adjustable="datalim")
    axes.grid(alpha=0.25)
    if title:
        axes.set_title(title)
    return save_figure(figure, path)
