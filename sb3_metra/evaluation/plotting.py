"""Pictures of skills and of training; the only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "sb3-metra[plot]"') from error

from sb3_metra.evaluation.rollout import SkillTrajectory


def skill_colors(skills: np.ndarray) -> np.ndarray:
    """
    A colour for each skill: the hue is the angle of the first two components, or the number of a one-hot skill.

    :param skills: (n, skill_dim)
    :return: red, green and blue in [0, 1], (n, 3)
    """
    skills = np.asarray(skills, dtype=np.float64)
    if skills.shape[1] == 1:  # -1 and +1, blue and red
        hue = (skills[:, 0] < 0) * 0.6
    elif ((skills == 0) | (skills == 1)).all() and (skills.sum(axis=1) == 1).all():
        hue = skills.argmax(axis=1) / skills.shape[1]
    else:
        hue = np.arctan2(skills[:, 1], skills[:, 0]) / (2 * np.pi) % 1.0
    hsv = np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.8)], axis=1)
    return np.asarray(matplotlib.colors.hsv_to_rgb(hsv))


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
    return _save(figure, path)


def plot_curves(
    curves: Mapping[str, Iterable[tuple[np.ndarray, np.ndarray]]],
    path: str | Path | None = None,
    xlabel: str = "environment steps",
    ylabel: str = "policy state coverage",
) -> Figure:
    """
    Learning curves of several methods, each run a thin line and their mean a thick one.

    :param curves: for each label its runs, each a pair of x and y, (n,)
    :param path: where to write the picture
    :param xlabel: name of the horizontal axis
    :param ylabel: name of the vertical axis
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (label, runs) in enumerate(curves.items()):
        runs = [(np.asarray(x, float), np.asarray(y, float)) for x, y in runs]
        if not runs:
            raise ValueError(f"curves must hold at least one run for each label, got none for {label!r}")
        for x, y in runs:
            axes.plot(x, y, color=f"C{i}", linewidth=0.8, alpha=0.5 if len(runs) > 1 else 1.0)
        common = runs[0][0][runs[0][0] <= min(x[-1] for x, _ in runs)]
        mean = np.mean([np.interp(common, x, y) for x, y in runs], axis=0)
        axes.plot(
            common, mean, color=f"C{i}", linewidth=2.0, label=f"{label} ({len(runs)})" if len(runs) > 1 else label
        )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend()
    return _save(figure, path)


def _save(figure: Figure, path: str | Path | None) -> Figure:
    FigureCanvasAgg(figure)  # no window, no global state
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure
