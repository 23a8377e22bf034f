"""Goals reached and missed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from sb3_metra.evaluation.goals import goal_success
from sb3_metra.evaluation.plotting.style import save_figure

_REACHED, _MISSED = "#2a7f3f", "#c8553d"


def plot_goals(
    coordinates: Sequence[np.ndarray],
    goals: np.ndarray,
    path: str | Path | None = None,
    radius: float = 3.0,
    title: str | None = None,
) -> Figure:
    """
    The path to each goal, green if it came within the radius, else red: y over x, or x over time.

    :param coordinates: for each goal the agent's places, (T + 1, k)
    :param goals: (n, k), of which the first two coordinates are drawn
    :param path: where to write the picture; its ending chooses the format, PNG, SVG or PDF
    :param radius: distance within which a goal counts as reached
    :param title: a line above it; ``None``: how many goals were reached
    """
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    reached = goal_success(coordinates, goals, radius)
    planar = np.shape(goals)[1] > 1
    for places, goal, success in zip(coordinates, goals, reached, strict=True):
        color = _REACHED if success else _MISSED
        x, y = (places[:, 0], places[:, 1]) if planar else (np.arange(len(places)), places[:, 0])
        axes.plot(x, y, color=color, linewidth=1.0, alpha=0.6)
        at_x, at_y = (goal[0], goal[1]) if planar else (len(places) - 1, goal[0])
        if planar:
            axes.add_patch(Circle((at_x, at_y), radius, color=color, alpha=0.12, linewidth=0))
        else:
            axes.errorbar(at_x, at_y, yerr=radius, color=color, alpha=0.4)
        axes.plot(at_x, at_y, marker="o" if success else "x", markersize=5, color=color)
    axes.set_xlabel("x" if planar else "step")
    axes.set_ylabel("y" if planar else "x")
    axes.set_aspect("equal" if planar else "auto", adjustable="datalim")
    axes.grid(alpha=0.25)
    axes.set_title(title if title is not None else f"{reached.sum()} of {len(reached)} goals reached within {radius:g}")
    return save_figure(figure, path)
