"""Keep the model of train.py, or of `sb3-metra demo`, in the package's data: weights only, and how it was trained."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import sb3_metra
from sb3_metra.common.files import write_json
from sb3_metra.export import export_skills
from sb3_metra.pretrained import ORIGIN

FOLDER = Path(sb3_metra.__file__).parent / "pretrained"


def of_demo(run: Path) -> tuple[Path, dict[str, Any]]:
    """The model that the demonstration left, and what it found."""
    result = json.loads((run / "result.json").read_text())
    names = {"env": "env", "seed": "seed", "steps": "timesteps", "policy_state_coverage": "policy_state_coverage"}
    return run / "model.zip", {name: result[found] for name, found in names.items()}


def of_training(run: Path) -> tuple[Path, dict[str, Any]]:
    """The model with the best coverage that train.py left, and how it was trained."""
    record = json.loads((run / "settings.json").read_text())
    with (run / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/policy_state_coverage"]]
    best = max(rows, key=lambda row: float(row["eval/policy_state_coverage"]))
    found = {
        "steps": int(float(best["time/total_timesteps"])),
        "policy_state_coverage": int(float(best["eval/policy_state_coverage"])),
        "cpu_seconds": round(float(best["time/cpu_seconds"])),
    }
    return run / "best_model.zip", {name: record[name] for name in ("env", "seed", "versions")} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that train.py or the demonstration wrote")
    parser.add_argument("name", help="of the model in the package")
    parser.add_argument("--command", required=True, help="the command that made it")
    args = parser.parse_args()
    path, origin = (of_demo if (args.run / "result.json").is_file() else of_training)(args.run)
    export_skills(sb3_metra.load(path, device="cpu"), FOLDER / args.name, license="MIT", onnx=False)
    write_json(FOLDER / args.name / ORIGIN, origin | {"command": args.command})
    size = sum(path.stat().st_size for path in (FOLDER / args.name).iterdir())
    print(f"{args.name}: {size / 1e6:.2f} MB, {origin['policy_state_coverage']} cells at {origin['steps']} steps")


if __name__ == "__main__":
    main()
