"""Curves of one or several runs: coverage with intervals, and what training does to the constraint."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from sb3_metra.common.inputs import check_choice, check_mapping
from sb3_metra.evaluation.plotting.style import Theme, save_figure, themed

_LINES = ("-", "--", ":")  # of more curves than there are colours
_MAX_POINTS = 100  # of a curve with an interval

#: What ``plot_training`` draws: the column of the log, what to call it, the level it is held against, and the scale.
TRAINING_PANELS: tuple[tuple[str, str, float | None, str], ...] = (
    ("train/dual_lambda", "λ", None, "log"),
    ("train/displacement_norm", "mean ‖Δφ‖", 1.0, "linear"),
    ("train/constraint_violation", "share of steps with ‖Δφ‖ > 1", None, "linear"),
)


def plot_curves(
    curves: Mapping[str, Iterable[tuple[np.ndarray, np.ndarray]]],
    path: str | Path | None = None,
    xlabel: str = "environment steps",
    ylabel: str = "policy state coverage",
    *,
    interval: Literal["iqm", "mean", "median"] | None = None,
    theme: Theme = "light",
) -> Figure:
    """
    Learning curves of several methods: each run a thin line, and a thick one for all of them.

    :param curves: for each label its runs, each a pair of x and y, (n,)
    :param path: where to write the picture; its ending chooses the format: PNG, SVG, PDF, ...
    :param xlabel: name of the horizontal axis
    :param ylabel: name of the vertical axis
    :param interval: statistic of several runs to draw with its pointwise 95 % stratified bootstrap interval, which
        needs rliable; ``None``: their mean alone
    :param theme: ``"light"`` or ``"dark"``
    """
    check_mapping("curves", curves)
    if interval is not None:
        check_choice("interval", interval, ("iqm", "mean", "median"))
    with themed(theme):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]  # "C0" would be looked up when drawn
        looks = cycle(itertools.product(_LINES, colors))
        for (line, color), (label, runs) in zip(looks, curves.items(), strict=False):
            finite = [_finite(label, *_run(label, run)) for run in _runs(label, runs)]
            if not finite:
                raise ValueError(f"curves must hold at least one run for each label, got none for {label!r}")
            _draw_runs(axes, color, line, label, finite, interval)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_xlim(left=0)
        if all(line.get_ydata().min() >= 0 for line in axes.lines):  # type: ignore[union-attr]
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend()
        return save_figure(figure, path)


def plot_training(
    progress: Mapping[str, np.ndarray],
    path: str | Path | None = None,
    title: str | None = None,
    *,
    theme: Theme = "light",
) -> Figure:
    """
    The multiplier lambda and the constraint over the steps of training, from SB3's log.

    :param progress: columns of the log by name, with NaN where nothing was logged; see
        :func:`~sb3_metra.evaluation.runs.read_log`
    :param path: where to write the picture; its ending chooses the format: PNG, SVG, PDF, ...
    :param title: a line above it
    :param theme: ``"light"`` or ``"dark"``
    :raises ValueError: if the log holds none of it
    """
    check_mapping("progress", progress)
    panels = [panel for panel in TRAINING_PANELS if panel[0] in progress]
    if "time/total_timesteps" not in progress or not panels:
        raise ValueError(
            "progress must have time/total_timesteps and one of "
            f"{', '.join(name for name, *_ in TRAINING_PANELS)}, got {sorted(progress)}"
        )
    with themed(theme):
        figure = Figure(figsize=(6.4, 1.7 * len(panels) + 0.6), layout="constrained")
        for axes, (name, label, level, scale) in zip(
            figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
        ):
            steps, values = _finite(name, progress["time/total_timesteps"], progress[name])
            axes.plot(steps, values, linewidth=1.6)
            if level is not None:
                axes.axhline(level, color="0.55", linewidth=1.0, linestyle="--")
                axes.annotate("constraint", (1.0, level), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                              color="0.55", fontsize=8.0)  # fmt: skip
            axes.set_title(label, loc="left", fontsize=9.0)
            axes.set_yscale(scale)
            if scale == "linear":
                axes.set_ylim(bottom=0.0)
            else:
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("environment steps")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if title:
            figure.suptitle(title, fontsize=10.0)
        return save_figure(figure, path)


def common_grid(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """
    Several runs at the same places, linearly interpolated, over what all of them reach.

    :param runs: pairs of x and y, (n,), x increasing
    :return: x, at most 100 places, (m,); and y of each run, (n_runs, m)
    """
    low, high = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    longest = max((x for x, _ in runs), key=len)
    grid = np.append(longest[(longest >= low) & (longest < high)], high)
    grid = grid[np.unique(np.linspace(0, len(grid) - 1, min(len(grid), _MAX_POINTS)).round().astype(int))]
    return grid, np.stack([np.interp(grid, x, y) for x, y in runs])


def _draw_runs(
    axes: Axes, color: str, line: str, label: str, runs: list[tuple[np.ndarray, np.ndarray]], interval: str | None
) -> None:
    if len(runs) == 1:
        axes.plot(*runs[0], line, color=color, linewidth=2.0, label=label)
        return
    for x, y in runs:
        axes.plot(x, y, line, color=color, linewidth=0.7, alpha=0.4)
    grid, values = common_grid(runs)
    if interval is None:
        center, what = values.mean(axis=0), "mean"
    else:
        from sb3_metra.evaluation.aggregate import aggregate_curves

        center, low, high = aggregate_curves(values, interval)  # type: ignore[arg-type]
        assert low is not None
        assert high is not None
        axes.fill_between(grid, low, high, color=color, alpha=0.2, linewidth=0)
        what = "IQM" if interval == "iqm" else interval
    axes.plot(grid, center, line, color=color, linewidth=2.0, label=f"{label} ({what} of {len(runs)})")


def _runs(label: str, runs: Any) -> Iterable[Any]:
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        raise ValueError(f"curves must hold a list of runs for each label, got {runs!r} for {label!r}")
    return runs


def _run(label: str, run: Any) -> tuple[Any, Any]:
    if not isinstance(run, Sequence) or len(run) != 2:
        raise ValueError(f"each run must be a pair of x and y, got {run!r} for {label!r}")
    return run[0], run[1]


def _finite(label: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"each run must be x and y of one length, got {x.shape} and {y.shape} for {label!r}")
    kept = np.isfinite(x) & np.isfinite(y)
    if not kept.any():
        raise ValueError(f"each run must hold at least one finite point, got none for {label!r}")
    order = np.argsort(x[kept], kind="stable")
    return x[kept][order], y[kept][order]
