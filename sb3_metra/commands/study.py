"""``sb3-metra study``: methods x environments x seeds x changes, on this machine, on Ray or on SLURM."""

from __future__ import annotations

import argparse
import glob
import sys
import time
from collections.abc import Collection
from pathlib import Path

from sb3_metra.common.inputs import check_count, check_folder, path_of
from sb3_metra.study.folder import opened, state_of, table
from sb3_metra.study.local import Show, run_local
from sb3_metra.study.plan import Study, read_study
from sb3_metra.study.results import RESULTS, collect, draw, write_results

_DESCRIPTION = """\
Train methods x environments x seeds x changed settings, all from one file, and draw the results.

STUDY is a YAML file, or the name of a shipped one: arena, every method on the cheap environments. Without --jobs,
--address or --slurm it runs on Ray, on this machine. The same command resumes a stopped study."""

_TABLE_SECONDS = 30.0


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; what it writes is named on the standard error."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra study", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("study", metavar="STUDY", help="a YAML file, or the name of a shipped study")
    add("--out", type=path_of, metavar="DIR", help="the study's folder (default: studies/NAME)")
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument("--jobs", type=int, metavar="N", help="run N trials at once on this machine, without Ray")
    engine.add_argument("--address", metavar="A", help="of a Ray cluster; auto: the one that this machine belongs to")
    engine.add_argument("--slurm", nargs="+", metavar="KEY=VALUE", help="queue jobs with these options of sbatch")
    engine.add_argument("--status", action="store_true", help="print the progress, and end")
    engine.add_argument("--draw", action="store_true", help="draw DIR/results.csv as it is, and end")
    engine.add_argument("--collect", nargs="+", metavar="RUN", help="make the CSV from these runs' folders, and end")
    add("--no-intervals", action="store_true", help="draw means only, without rliable")
    options = parser.parse_args(arguments)

    study = read_study(options.study)
    out = options.out or Path("studies") / study.name
    if options.status:
        print(table(study, out))
        return
    if options.collect:
        write_results(collect(_folders(options.collect)), check_folder("--out", out) / RESULTS)
    elif not options.draw:
        _run(study, out, options)
    _draw(out, not options.no_intervals)
    if not (options.collect or options.draw) and any(
        state_of(out / name).status not in ("finished", "stopped") for name in study.trials
    ):
        sys.exit(1)


def _folders(words: list[str]) -> list[Path]:
    """Folders of runs, of which a pattern stands for all that fit it."""
    found = [[path for path in map(Path, sorted(glob.glob(word))) if path.is_dir()] or [Path(word)] for word in words]
    return [path for paths in found for path in paths]


def _run(study: Study, out: Path, options: argparse.Namespace) -> None:
    with opened(study, out) as mark:
        show = _shower(study, out)
        try:
            if options.jobs is not None:
                run_local(study, out, mark, check_count("--jobs", options.jobs), show)
            elif options.slurm is not None:
                from sb3_metra.study.on_slurm import run_slurm

                run_slurm(study, out, mark, options.slurm, show)
            else:
                from sb3_metra.study.on_ray import run_ray

                run_ray(study, out, mark, options.address, show)
        finally:
            print(table(study, out), file=sys.stderr)
            places = [out / name for name in study.trials if state_of(out / name).steps]
            write_results(collect(places), out / RESULTS)


def _shower(study: Study, out: Path) -> Show:
    """Prints the table of a study if it has changed, but not too often."""
    last, shown = "", 0.0

    def show(running: Collection[str]) -> None:
        nonlocal last, shown
        if time.monotonic() - shown < _TABLE_SECONDS and shown:
            return
        shown, before = time.monotonic(), last
        if (last := table(study, out, running)) != before:
            print(f"{last}\n", file=sys.stderr, flush=True)

    return show


def _draw(out: Path, intervals: bool) -> None:
    if not (out / RESULTS).is_file():
        raise ValueError(f"--out must be a study's folder that holds {RESULTS}, got {str(out)!r}")
    written = draw(out / RESULTS, out, intervals)
    print("\n".join(["Written:", f"  {out / RESULTS}", *(f"  {path}" for path in written)]), file=sys.stderr)
