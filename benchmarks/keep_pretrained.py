"""Keep the model of a run of train.py in the package's data, weights only, with what says how it was trained."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import sb3_metra
from sb3_metra.common.files import write_json
from sb3_metra.export import export_skills
from sb3_metra.pretrained import ORIGIN

FOLDER = Path(sb3_metra.__file__).parent / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that train.py wrote")
    parser.add_argument("name", help="of the model in the package")
    parser.add_argument("--command", required=True, help="the command that made it")
    parser.add_argument("--newest", action="store_true", help="the last model instead of that with the best coverage")
    args = parser.parse_args()
    record = json.loads((args.run / "settings.json").read_text())
    with (args.run / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/policy_state_coverage"]]
    best = rows[-1] if args.newest else max(rows, key=lambda row: float(row["eval/policy_state_coverage"]))
    model = sb3_metra.load(args.run / ("model.zip" if args.newest else "best_model.zip"), device="cpu")
    export_skills(model, FOLDER / args.name, license="MIT", onnx=False)
    kept = {name: record[name] for name in ("env", "seed", "versions")}
    origin = {
        "steps": int(float(best["time/total_timesteps"])),
        "policy_state_coverage": int(float(best["eval/policy_state_coverage"])),
        "cpu_seconds": round(float(best["time/cpu_seconds"])),
        "command": args.command,
    }
    write_json(FOLDER / args.name / ORIGIN, kept | origin)
    size = sum(path.stat().st_size for path in (FOLDER / args.name).iterdir())
    print(f"{args.name}: {size / 1e6:.2f} MB, {origin['policy_state_coverage']} cells at {origin['steps']} steps")


if __name__ == "__main__":
    main()
