"""Keep runs of train.py in docs/results: a short CSV and the settings of each, and the curves of all as pictures."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from sb3_metra.evaluation.plotting import plot_curves

RESULTS = Path(__file__).parents[1] / "docs" / "results"
COLUMNS = {
    "steps": "time/total_timesteps",
    "policy_state_coverage": "eval/policy_state_coverage",
    "distance": "eval/distance",
    "cpu_seconds": "time/cpu_seconds",
    "dual_lambda": "train/dual_lambda",
    "displacement_norm": "train/displacement_norm",
    "constraint_slack": "train/constraint_slack",
    "constraint_violation": "train/constraint_violation",
    "intrinsic_reward": "train/intrinsic_reward",
    "ent_coef": "train/ent_coef",
}


def keep(run: Path, name: str) -> None:
    """
    Copy what matters of a run.

    :param run: folder that train.py wrote
    :param name: of the files in docs/results
    """
    with (run / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/policy_state_coverage"]]
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{float(row.get(column) or 'nan'):.6g}" for column in COLUMNS.values()] for row in rows)
    (RESULTS / f"{name}.json").write_text((run / "settings.json").read_text())


def read(name: str) -> dict[str, np.ndarray]:
    """
    The columns of a kept run.

    :param name: of its files
    """
    table = np.genfromtxt(RESULTS / f"{name}.csv", delimiter=",", names=True)
    return {column: np.atleast_1d(table[column]) for column in COLUMNS}


def summary(name: str) -> str:
    """
    A row of a table: steps, CPU minutes, last and best coverage, and when 50, 200 and 1000 cells were first reached.

    :param name: of a kept run's files
    """
    run = read(name)
    steps, coverage, minutes = run["steps"], run["policy_state_coverage"], run["cpu_seconds"] / 60
    firsts = []
    for goal in (50, 200, 1000):
        reached = np.flatnonzero(coverage >= goal)
        firsts.append(f"{steps[reached[0]] / 1e6:.2f}M, {minutes[reached[0]]:.0f} min" if len(reached) else "-")
    cells = f"{coverage[-1]:.0f} | {coverage.max():.0f} | {' | '.join(firsts)}"
    return f"| `{name}` | {steps[-1] / 1e6:.2f}M | {minutes[-1]:.1f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", nargs=2, action="append", default=[], metavar=("RUN", "NAME"), help="copy a run")
    args = parser.parse_args()
    for run, name in args.keep:
        keep(Path(run), name)
    print("| run | steps | CPU minutes | last | best | first 50 cells | first 200 | first 1000 |")
    print("|---|---|---|---|---|---|---|---|")
    for path in sorted(RESULTS.glob("*.csv")):
        print(summary(path.stem))
    pictures = json.loads((RESULTS / "pictures.json").read_text())
    for picture, groups in pictures.items():
        for x, xlabel, scale in (("steps", "environment steps", 1.0), ("cpu_seconds", "CPU minutes, one core", 60.0)):
            curves = {
                label: [(read(name)[x] / scale, read(name)["policy_state_coverage"]) for name in names]
                for label, names in groups.items()
            }
            plot_curves(curves, RESULTS / f"{picture}_{x}.png", xlabel)


if __name__ == "__main__":
    main()
