"""``sb3-metra compare``: several runs or methods in one picture and one table."""

import argparse
import glob
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sb3_metra.common.inputs import check_folder, path_of
from sb3_metra.evaluation.runs import Curves, curve, find_log, read_log, summarize

_DESCRIPTION = """\
Draw the logs of several runs together, and print a table of them as JSON.

RUN is a folder or a file, or LABEL=RUN. Runs of one label are seeds of one method: they are drawn with their
interquartile mean and its 95 % bootstrap interval. A pattern stands for all matching runs: 'fast=runs/ant_s*'."""


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra compare", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="progress.csv, evaluations.npz or evaluation.json, or their folder")
    add("--metric", default="eval/policy_state_coverage", help="column to compare (default: %(default)s)")
    add("--x", default="time/total_timesteps", metavar="COLUMN", help="column to draw over (default: %(default)s)")
    add("--statistic", choices=["iqm", "mean", "median"], default="iqm", help="of several seeds (default: %(default)s)")
    add("--no-intervals", action="store_true", help="draw means only, without rliable")
    add("--out", type=path_of, default=Path("compare"), metavar="DIR", help="where to write (default: %(default)s)")
    add("--theme", choices=["light", "dark"], default="light", help="of the picture (default: %(default)s)")
    options = parser.parse_args(arguments)

    from sb3_metra.evaluation.plotting import plot_curves

    curves = read_runs(group_runs(options.runs), options.metric, options.x)
    check_folder("--out", options.out)
    table = {"metric": options.metric, "x": options.x, "methods": summarize(curves, not options.no_intervals)}
    written = [options.out / "comparison.json"]
    written[0].write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    if any(len(x) > 1 for runs in curves.values() for x, _ in runs):
        interval = None if options.no_intervals else options.statistic
        labels = {"xlabel": _words(options.x), "ylabel": _words(options.metric)}
        for ending in ("png", "svg"):
            written.append(options.out / f"comparison.{ending}")
            plot_curves(curves, written[-1], interval=interval, theme=options.theme, **labels)
    print("\n".join(["Written:", *(f"  {path}" for path in written)]), file=sys.stderr)
    print(json.dumps(table, indent=2))


def group_runs(words: Sequence[str]) -> dict[str, list[Path]]:
    """
    Sort runs by label.

    :param words: ``LABEL=RUN``, or ``RUN``, whose label is the name of its folder or file; patterns are expanded
    :return: for each label its logs, in the order given
    :raises ValueError: if a run is missing
    """
    grouped: dict[str, list[Path]] = {}
    for word in words:
        label, separator, pattern = word.partition("=")
        if not separator or Path(word).exists():
            label, pattern = "", word
        for path in map(Path, sorted(glob.glob(pattern)) or [pattern]):
            log = find_log(path)
            name = path.stem if path.is_file() and path.suffix == ".csv" and path.name != "progress.csv" else ""
            own = name or (path if path.is_dir() else path.parent).resolve().name
            grouped.setdefault(label or own, []).append(log)
    return grouped


def read_runs(runs: Mapping[str, Sequence[Path]], metric: str, x: str) -> Curves:
    """
    Read the curves of all runs.

    :param runs: logs by label
    :param metric: column to compare
    :param x: column that it is drawn over
    :return: for each label its runs, pairs of x and y
    """
    curves: Curves = {}
    for label, paths in runs.items():
        curves[label] = []
        for path in paths:
            try:
                curves[label].append(curve(read_log(path), metric, x))
            except ValueError as error:
                raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return curves


def _words(column: str) -> str:
    """A column's name on an axis."""
    name = {"total_timesteps": "environment steps", "cpu_seconds": "CPU seconds"}
    last = column.rpartition("/")[2]
    return name.get(last, last.replace("_", " "))
