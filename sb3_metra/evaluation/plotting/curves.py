"""Curves of one or several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_metra.evaluation.plotting.style import save_figure


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
    return save_figure(figure, path)
