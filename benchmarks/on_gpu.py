"""
All that this project wants to know of a GPU, in one go: tests, parts of a gradient step, environments, and training.

Each part is a command of its own with a time limit, and what it prints goes to a file of its own, so that whatever
happens the parts before are kept. Training leaves a checkpoint: the same command with the same --out goes on from it.
Usage: python benchmarks/on_gpu.py --out runs/gpu --minutes 25 (try it first: --device cpu --quick)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def make_commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Each part's command by its name; training comes last and gets the time that is left."""
    parts = [str(HERE / "step_parts.py"), "--device", args.device]
    small = ["--batch-size", "16", "--width", "32", "--repeats", "1"] if args.quick else ["--repeats", "10"]
    variants = ["float32"] if args.quick else ["float32", "tf32", "bfloat16"]
    pixels = variants if args.quick else [*variants, "channels first", "shared critic encoder"]
    workers = ["1", "2"] if args.quick else ["1", "2", "4", "8", "16"]
    commands = {
        "tests": ["-m", "pytest", "-q", "-k", "cuda or gpu", str(HERE.parent / "tests")],
        "step_pixels": [*parts, *small, "--variants", *pixels, "--out", str(args.out / "step_pixels.json")],
        "step_state": [*parts, *small, "--variants", *variants, "--out", str(args.out / "step_state.json")],
        "replay": [str(HERE / "frame_buffer.py"), "--device", args.device],
        "environments": [str(HERE / "pixel_envs.py"), "--workers", *workers, "--envs", *args.envs],
    }
    tiny = {"learning_starts": 32, "gradient_steps": 2, "train_freq": 8, "batch_size": 8, "n_envs": 2}
    change = {"buffer_size": 2_000} | tiny if args.quick else {"bfloat16": True, "tf32": True}
    commands["step_state"] += ["--observations", "state"]
    for env_id in args.envs:
        name = env_id.split("/")[-1]
        commands[f"train_{name}"] = [str(HERE / "train.py"), "--env", env_id, "--device", args.device]
        commands[f"train_{name}"] += ["--out", str(args.out / name), "--change", repr(change)]
        commands[f"train_{name}"] += ["--checkpoint-minutes", "4"]
        commands[f"train_{name}"] += ["--eval-freq", "200", "--eval-skills", "2"] if args.quick else []
    return commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="for everything")
    parser.add_argument("--envs", nargs="+", default=["sb3_metra/QuadrupedPixels-v0"], help="to train in, one by one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="everything, but tiny, to try the script")
    parser.add_argument("--only", nargs="+", help="names of parts to run, such as train_QuadrupedPixels-v0")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    environ = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    for name, command in make_commands(args).items():
        if args.only and name not in args.only:
            continue
        left = end - time.monotonic()
        if name.startswith("train_"):  # a minute to measure the last skills and to write the checkpoint
            command += ["--minutes", f"{max(left / 60 - 1.5, 0.2):.2f}"]
        with (args.out / f"{name}.txt").open("a") as file:
            print(" ".join(command), file=file, flush=True)
            start = time.monotonic()
            try:
                done = subprocess.run(
                    [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environ, timeout=max(left, 1)
                )
                ended = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = "time is over"
        print(f"{name}: {ended} after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
