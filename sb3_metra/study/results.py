"""Results of trials: one CSV with a row for each trial and evaluation, and what is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_metra.evaluation.runs import Curves, summarize
from sb3_metra.hyperparams import load_settings
from sb3_metra.study.progress import CPU, STEPS, read_rows, write_rows
from sb3_metra.study.trial import METHODS, PROGRESS, SETTINGS

RESULTS, PAGE = "results.csv", "results.md"

COLUMNS = ("method", "env", "seed", "change", "steps", "cpu_seconds", "coverage")
"""The first columns of the CSV; ``change`` and ``cpu_seconds`` may be left out."""

_HEADLINES = ("policy_state_coverage", "task_coverage")
_NUMBERS = ("steps", "coverage")


@dataclass(frozen=True)
class Row:
    """
    One evaluation of one trial.

    :param label: the method, and what was changed
    :param env: id of the environment
    :param seed: of the trial, in words
    :param steps: environment steps
    :param coverage: cells or tasks
    :param cpu_minutes: of the training process, without evaluations; NaN if unknown
    """

    label: str
    env: str
    seed: str
    steps: float
    coverage: float
    cpu_minutes: float


def collect(places: Iterable[Path]) -> list[dict[str, Any]]:
    """
    Rows for the CSV from the folders of trials, or of runs of ``benchmarks/train.py``.

    :param places: folders, each with ``settings.json`` and ``progress.csv``
    :return: values by column, one row an evaluation
    :raises ValueError: if a folder holds no run
    """
    rows: list[dict[str, Any]] = []
    for place in places:
        try:
            settings = json.loads((place / SETTINGS).read_text(encoding="utf-8"))
            lines = read_rows(place / PROGRESS)
            common = {"method": settings["algorithm"], "env": settings["env"], "seed": settings["seed"]}
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"RUN must be a folder with {SETTINGS} and {PROGRESS}, got {str(place)!r}: {error}"
            ) from error
        common["change"] = settings["change"] if "change" in settings else find_change(settings)
        rows += [common | measured for line in lines if (measured := _measured(line))]
    return rows


def _measured(line: Mapping[str, str]) -> dict[str, str]:
    """An evaluation from a line of a run's log; empty if it holds none."""
    evaluated = {name.removeprefix("eval/"): x for name, x in line.items() if name.startswith("eval/")}
    coverage = next((evaluated[name] for name in _HEADLINES if evaluated.get(name)), "")
    if not coverage:
        return {}
    others = {name: f"{float(x):.6g}" for name, x in evaluated.items() if x and name not in _HEADLINES}
    seconds = f"{float(line.get(CPU) or 'nan'):.6g}"
    return {"steps": f"{float(line[STEPS]):g}", "cpu_seconds": seconds, "coverage": f"{float(coverage):g}", **others}


def find_change(settings: Mapping[str, Any]) -> str:
    """
    What differs from the shipped settings.

    :param settings: what its ``settings.json`` says
    :return: such as ``gradient_steps=160``; empty if nothing
    """
    try:
        shipped = load_settings(settings["env"], settings["algorithm"])
    except ValueError:
        return ""
    changes = _differences(shipped, settings["settings"])
    return ", ".join(sorted(f"{name}={x}" for name, x in changes.items() if name != "n_timesteps"))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key in before.keys() | now.keys():
        was, has = before.get(key), now.get(key)
        if isinstance(was, Mapping) or isinstance(has, Mapping):
            changes |= _differences(was or {}, has or {}, f"{prefix}{key}.")
        elif was != has:
            changes[f"{prefix}{key}"] = has
    return changes


def write_results(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """
    Write the CSV.

    :param rows: values by column
    :param path: the file
    """
    write_rows(path, [dict(row) for row in rows], COLUMNS)


def read_results(path: Path) -> list[Row]:
    """
    Read the CSV, also with rows of methods of your own.

    :param path: the file
    :return: a row for each evaluation
    :raises ValueError: for the first line that cannot be read
    """
    lines = read_rows(path)
    if not lines:
        raise ValueError(f"{path} must hold at least one row, got none")
    missing = [name for name in ("method", "env", "seed", *_NUMBERS) if name not in lines[0]]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, got none of the name {missing[0]}")
    return [_read_row(path, number, line) for number, line in enumerate(lines, 2)]


def _read_row(path: Path, number: int, line: Mapping[str, str | None]) -> Row:
    for name in ("method", "env", "seed", *_NUMBERS):
        if not line[name]:
            raise ValueError(f"{path}, line {number}: {name} must not be empty")
    values = []
    for name in (*_NUMBERS, "cpu_seconds"):
        try:
            values.append(float(line.get(name) or "nan"))
        except ValueError:
            raise ValueError(f"{path}, line {number}: {name} must be a number, got {line[name]!r}") from None
    change = line.get("change") or ""
    label = name_of(str(line["method"])) + (f", {change}" if change else "")
    steps, coverage, seconds = values
    return Row(label, str(line["env"]), str(line["seed"]), steps, coverage, seconds / 60)


def name_of(method: str) -> str:
    """
    The name of a method in tables.

    :param method: ``metra``, or the name of a method of your own
    """
    return METHODS[method].__name__ if method in METHODS else method


def curves(rows: Iterable[Row], env: str, x: str = "steps") -> Curves:
    """
    Coverage of each method in an environment.

    :param rows: of the CSV
    :param env: id of the environment
    :param x: what it is over, ``steps`` or ``cpu_minutes``; runs that do not know it are left out
    :return: for each label its runs
    """
    runs: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        place = getattr(row, x)
        if row.env == env and np.isfinite(place):
            runs.setdefault(row.label, {}).setdefault(row.seed, []).append((place, row.coverage))
    return {label: [_curve(points) for points in seeds.values()] for label, seeds in runs.items()}


def _curve(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*sorted(points), strict=True)
    return np.array(x), np.array(y)


def environments(rows: Iterable[Row]) -> list[str]:
    """
    The environments of a study, in their order.

    :param rows: of the CSV
    """
    return list({row.env: None for row in rows})


def scores(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """
    What rliable and :func:`~sb3_metra.evaluation.aggregate.aggregate_runs` read: each run's last coverage, as a share
    of what the best method reaches there on average.

    :param rows: of the CSV
    :return: for each method that has as many runs in every environment, (n_runs, n_environments)
    """
    columns: dict[str, list[list[float]]] = {}
    for env in environments(rows):
        last = {label: [float(y[-1]) for _, y in runs] for label, runs in curves(rows, env).items()}
        best = max(float(np.mean(values)) for values in last.values()) or 1.0
        for label, values in last.items():
            columns.setdefault(label, []).append([value / best for value in values])
    count = len(environments(rows))
    whole = {label: x for label, x in columns.items() if len(x) == count and len({len(values) for values in x}) == 1}
    return {label: np.array(x).T for label, x in whole.items()}


def tables(rows: Sequence[Row], intervals: bool = True) -> dict[str, str]:
    """
    A table for each environment, in Markdown: the best method first.

    :param rows: of the CSV
    :param intervals: with 95 % intervals over several runs, which needs rliable
    """
    return {env: _table(rows, env, intervals) for env in environments(rows)}


def _table(rows: Sequence[Row], env: str, intervals: bool) -> str:
    found, minutes = curves(rows, env), curves(rows, env, "cpu_minutes")
    summary = summarize(found, intervals)
    lines = []
    for label, method in summary.items():
        final = method["final"]["iqm" if "iqm" in method["final"] else "mean"]
        interval = "-" if final["low"] is None else f"{final['low']:.1f} to {final['high']:.1f}"
        best = max(method["best"]["runs"])
        spent = np.mean([x[-1] for x, _ in minutes[label]]) if label in minutes else float("nan")
        cells = (label, method["n_runs"], f"{method['last']:,.0f}", f"{final['value']:.1f}", interval, f"{best:g}")
        lines.append((final["value"], [*map(str, cells), f"{spent:.1f}" if np.isfinite(spent) else "-"]))
    lines.sort(key=lambda line: -line[0])
    heads = ["method", "runs", "steps", "coverage", "95 % interval", "best evaluation", "CPU minutes"]
    table = [heads, ["---"] * len(heads), *(cells for _, cells in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def draw(path: Path, out: Path, intervals: bool = True) -> list[Path]:
    """
    Draw the CSV: a page in Markdown with a table for each environment, and pictures over steps and CPU minutes.

    :param path: the CSV
    :param out: folder of the page and the pictures
    :param intervals: with 95 % intervals over several runs, which needs rliable
    :return: what was written
    """
    from sb3_metra.evaluation.plotting import plot_curves

    rows = read_results(path)
    page, written = [], []
    for env, table in tables(rows, intervals).items():
        page += [f"## {env}\n", table, ""]
        for x, words in (("steps", "environment steps"), ("cpu_minutes", "CPU minutes")):
            if found := curves(rows, env, x):
                written.append(out / f"{env.replace('/', '-').replace(':', '-')}_{x}.png")
                plot_curves(found, written[-1], words, "coverage", interval="iqm" if intervals else None)
                page += [f"![Coverage in {env} over {words}]({written[-1].name})", ""]
    (out / PAGE).write_text("\n".join(page), encoding="utf-8")
    return [out / PAGE, *written]
