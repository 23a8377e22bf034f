"""The files of a run: SB3's progress.csv, rl_zoo3's evaluations.npz, and what ``sb3-metra evaluate`` writes."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sb3_metra.common.inputs import check_mapping, check_path, check_text

STEPS = "time/total_timesteps"

Curves = dict[str, list[tuple[np.ndarray, np.ndarray]]]
"""For each label its runs, pairs of x and y, (n,) each."""

#: Files that hold the log of a run, in the order in which a folder is searched for them.
LOG_FILES = ("progress.csv", "evaluations.npz", "evaluation.json")


def find_log(path: str | Path, name: str = "RUN") -> Path:
    """
    The file that holds a run's log.

    :param path: the file, or the run's folder
    :param name: its name in an error
    :raises ValueError: if there is none
    """
    path = check_path("path", path)
    if path.is_file():
        return path
    for file in LOG_FILES:
        if (path / file).is_file():
            return path / file
    what = "holds neither" if path.is_dir() else "does not exist"
    raise ValueError(
        f"{name} must be a file, or a folder with one of {', '.join(LOG_FILES)}, got {str(path)!r}, which {what}: "
        "SB3 writes progress.csv with `configure(folder, ['csv'])`, and `sb3-metra train` writes evaluations.npz"
    )


def read_log(path: str | Path, name: str = "RUN") -> dict[str, np.ndarray]:
    """
    The columns of a run's log, by name.

    Of evaluations.npz, ``time/total_timesteps`` and ``eval/policy_state_coverage``, in the place of which rl_zoo3 keeps
    the reward. Of an evaluation of a saved model, one row, with its steps if they are known.

    :param path: a CSV file, evaluations.npz, an evaluation's JSON, or a folder that holds one
    :param name: its name in an error
    :return: each (n,), float64, NaN where nothing was logged
    :raises ValueError: if there is no such file, or it cannot be read
    """
    log = _read(find_log(path, name))
    if not log or not len(next(iter(log.values()))):
        raise ValueError(f"{path} must hold at least one line of the log, got none")
    return log


def read_curves(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """
    All learning curves of a run, over the steps of training.

    :param folder: where ``progress.csv`` lies, SB3's log, or else ``evaluations.npz``, which ``sb3-metra train`` leaves
    :return: for each column its steps and values, (n,) each; empty if there is neither file, or nothing in it
    :raises ValueError: if a file is there but cannot be read
    """
    folder = check_path("folder", folder)
    path = next((file for name in LOG_FILES[:2] if (file := folder / name).is_file()), None)
    log = {} if path is None else _read(path)
    if not log:
        return {}
    if STEPS not in log:
        raise ValueError(f"{path} must have a column {STEPS!r}, got {', '.join(log)}")
    curves = {}
    for name, values in log.items():
        kept = np.isfinite(values) & np.isfinite(log[STEPS])
        if name != STEPS and kept.any():
            curves[name] = (log[STEPS][kept], values[kept])
    return curves


def _read(path: Path) -> dict[str, np.ndarray]:
    """The columns of a log, which may be empty."""
    readers = {".csv": _read_csv, ".npz": _read_npz, ".json": _read_json}
    if path.suffix not in readers:
        raise ValueError(f"a log must be a .csv, .npz or .json file, got {path.name!r}")
    try:
        return readers[path.suffix](path)
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a run's log ({type(error).__name__}: {error})") from error


def column(log: dict[str, np.ndarray], name: str) -> str:
    """
    A column's full name, from the name or from what follows its last slash; ``steps`` are ``time/total_timesteps``.

    :param log: what :func:`read_log` returns
    :param name: for example ``"eval/policy_state_coverage"`` or ``"policy_state_coverage"``
    :raises ValueError: if there is no such column, or several
    """
    check_mapping("log", log)
    if check_text("name of a column", name) in log:
        return name
    wanted = {name.rpartition("/")[2]}
    if "total_timesteps" in wanted:
        wanted.add("steps")
    found = [key for key in log if key.rpartition("/")[2] in wanted]
    if len(found) != 1:
        raise ValueError(f"the log must have one column {name!r}, got {', '.join(sorted(found or log))}")
    return found[0]


def curve(log: dict[str, np.ndarray], metric: str, x: str = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """
    A metric over the steps of training, without the lines that do not hold it.

    :param log: what :func:`read_log` returns
    :param metric: name of a column, or what follows its last slash
    :param x: the column it is drawn over
    :return: x and y, each (n,)
    """
    xs, ys = log[column(log, x)], log[column(log, metric)]
    kept = np.isfinite(xs) & np.isfinite(ys)
    if not kept.any():
        raise ValueError(f"the log must hold a value of {metric!r} at least once, got none")
    return xs[kept], ys[kept]


def summarize(curves: Curves, intervals: bool = True) -> dict[str, dict[str, Any]]:
    """
    What each method reaches: at its runs' last common place, and at best.

    :param curves: for each label its runs, pairs of x and y
    :param intervals: add interquartile mean, mean and median with 95 % intervals, which needs rliable for several runs
    :return: for each label the number of runs, the last common place, and the values there and at best
    """
    methods: dict[str, dict[str, Any]] = {}
    for label, runs in curves.items():
        last = min(float(x[-1]) for x, _ in runs)
        final = [float(np.interp(last, x, y)) for x, y in runs]
        best = [float(y.max()) for _, y in runs]
        methods[label] = {"n_runs": len(runs), "last": last, "final": {"runs": final}, "best": {"runs": best}}
        for name, values in (("final", final), ("best", best)):
            methods[label][name] |= _statistics(values, intervals)
    return methods


def _statistics(values: list[float], intervals: bool) -> dict[str, Any]:
    if len(values) == 1 or not intervals:
        return {"mean": {"value": float(np.mean(values)), "low": None, "high": None}}
    from sb3_metra.evaluation.aggregate import aggregate_runs

    summary = aggregate_runs({"": values})[""]
    return {name: summary[name] for name in ("iqm", "mean", "median")}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name is not None]
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return float("nan")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        steps, results = file["timesteps"].astype(np.float64), file["results"].astype(np.float64)
    return {STEPS: steps, "eval/policy_state_coverage": results.mean(axis=1)}


def _read_json(path: Path) -> dict[str, np.ndarray]:
    values = json.loads(path.read_text(encoding="utf-8"))
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
    steps = numbers.pop("num_timesteps", None)
    log = {f"eval/{key}": np.array([float(value)]) for key, value in numbers.items()}
    return log if steps is None else {STEPS: np.array([float(steps)]), **log}
