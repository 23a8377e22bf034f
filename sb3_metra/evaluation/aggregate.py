"""Several runs of a method as one number with an interval, by rliable; the only file that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

try:
    from rliable import library, metrics
except (ImportError, TypeError) as error:  # TypeError: arch, which rliable stands on, fails so on pandas 3
    raise ImportError(
        f'intervals over several runs need rliable and pandas below 3 ({error}): pip install "sb3-metra[stats]"'
    ) from error

from sb3_metra.common.inputs import check_choice, check_count, check_mapping, check_number, check_numbers, check_seed

Statistic = Literal["iqm", "mean", "median"]

_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "iqm": metrics.aggregate_iqm,
    "mean": metrics.aggregate_mean,
    "median": lambda x: np.median(x) if x.shape[1] == 1 else metrics.aggregate_median(x),
}


def aggregate_runs(
    scores: Mapping[str, np.ndarray | Sequence[float]],
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """
    Interquartile mean, mean and median over runs, with stratified bootstrap intervals (Agarwal et al., 2021).

    The median is over runs; with several tasks it is rliable's, over tasks of the mean over runs. A single run has no
    interval. With fewer than four runs the interquartile mean is the mean, and intervals are too narrow.

    :param scores: for each method one score a run, (n_runs,), or one a run and task, (n_runs, n_tasks), on a scale
        that the tasks share
    :param reps: bootstrap samples
    :param confidence: of the intervals, the percentile method
    :param seed: of the bootstrap; NumPy's global state stays as it is
    :return: for each method ``n_runs`` and ``iqm``, ``mean`` and ``median``, each a dictionary of ``value``, ``low``
        and ``high``, the bounds ``None`` for a single run
    """
    _check(reps, confidence, seed)
    result = {}
    for label, values in check_mapping("scores", scores).items():
        table = _table(label, values)[:, :, None]
        summary: dict[str, Any] = {"n_runs": len(table)}
        for name in _STATISTICS:
            (value,), low, high = _interval(table, name, reps, confidence, seed)
            summary[name] = {
                "value": float(value),
                "low": None if low is None else float(low[0]),
                "high": None if high is None else float(high[0]),
            }
        result[label] = summary
    return result


def aggregate_curves(
    curves: np.ndarray, statistic: Statistic = "iqm", reps: int = 500, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """
    One curve for several runs, with a pointwise interval.

    :param curves: (n_runs, n_points)
    :param statistic: ``"iqm"``, ``"mean"`` or ``"median"``
    :param reps: bootstrap samples
    :param confidence: of the interval
    :param seed: of the bootstrap
    :return: value, lower and upper bound, each (n_points,); the bounds are ``None`` for a single run
    """
    check_choice("statistic", statistic, tuple(_STATISTICS))
    _check(reps, confidence, seed)
    return _interval(_table("curves", curves)[:, None, :], statistic, reps, confidence, seed)


def _check(reps: int, confidence: float, seed: int) -> None:
    """Refuse a bootstrap that cannot be."""
    check_count("reps", reps)
    if check_number("confidence", confidence) >= 1:
        raise ValueError(f"confidence must be less than 1, got {confidence!r}")
    if check_seed("seed", seed) is None:
        raise ValueError("seed must be an integer for an interval that can be repeated, got None")


def _table(label: str, values: Any) -> np.ndarray:
    table = check_numbers(f"scores of {label!r}", values)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size:
        raise ValueError(
            f"scores of {label!r} must be one for each run, or for each run and task, got shape {np.shape(values)}"
        )
    return table


def _interval(
    scores: np.ndarray, statistic: str, reps: int, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Of scores (n_runs, n_tasks, n_points), for each point."""
    function = _STATISTICS[statistic]

    def aggregate(sample: np.ndarray) -> np.ndarray:
        return np.array([function(sample[..., point]) for point in range(sample.shape[-1])])

    if len(scores) == 1:
        return aggregate(scores), None, None
    with _seeded(seed):
        values, bounds = library.get_interval_estimates(
            {"scores": scores}, aggregate, reps=reps, confidence_interval_size=confidence
        )
    return values["scores"], bounds["scores"][0], bounds["scores"][1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws from NumPy's global state whatever it is given: seed that, and put it back."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        np.random.set_state(state)
