"""
Train METRA or another method (--algo) with the shipped settings; record coverage over steps and time as CSV, and the
model.

Any task of the dm_control suite will do, from pixels: --env dmc/point_mass-easy. On one core, or on a GPU with
environments in processes of their own: --device cuda. With --checkpoint-minutes it leaves checkpoints, from which the
same command goes on as if it had never stopped; with --minutes it stops in time.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.vec_env import VecEnv

import sb3_metra.envs  # registers the environments
from sb3_metra import ALGORITHMS
from sb3_metra.common.checkpoint import RunCheckpointCallback
from sb3_metra.envs.batch import make_fast_vec_env
from sb3_metra.envs.vec import make_pixel_vec_env
from sb3_metra.evaluation import SkillEvalCallback
from sb3_metra.evaluation.faithfulness import displacement_cosine
from sb3_metra.evaluation.plotting import plot_trajectories
from sb3_metra.hyperparams import load_settings

METHODS = {name.lower(): algorithm for name, algorithm in ALGORITHMS.items()}
NOT_THE_MODELS = ("n_timesteps", "n_envs", "env_kwargs")


class TimedCheckpoint(RunCheckpointCallback):
    """
    Writes a checkpoint from time to time and at the end, and ends training when the time is over.

    :param folder: where checkpoints go
    :param minutes: wall time to train for; ``None``: no limit
    :param every: minutes between two checkpoints; 0: none
    """

    def __init__(self, folder: Path, minutes: float | None, every: float) -> None:
        super().__init__(1, folder, keep=1)
        self.every = every
        self.started = self.kept = time.monotonic()
        self.minutes = float("inf") if minutes is None else minutes

    def get_state(self) -> dict[str, int]:
        """The clock is not part of a run."""
        return {"last_saved": self.last_saved, "n_calls": self.n_calls}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self.last_saved, self.n_calls = state["last_saved"], state["n_calls"]

    def _on_step(self) -> bool:
        return time.monotonic() - self.started < 60 * self.minutes

    def _on_rollout_start(self) -> None:
        if self.every and time.monotonic() - self.kept > 60 * self.every:
            self.save()

    def _on_training_end(self) -> None:
        if self.every:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        super().save()
        self.kept = time.monotonic()


def make_envs(env_id: str, n_envs: int, seed: int | None = None, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """Environments that MuJoCo draws in a process each, its bodies in a batch, others in turn."""
    if env_id.startswith("dmc/"):
        from sb3_metra.envs.dmc import make_pixel_env

        domain, task = env_id.removeprefix("dmc/").split("-")
        of_suite = {"domain": domain, "task": task} | (env_kwargs or {})
        return make_pixel_vec_env(make_pixel_env, n_envs, seed=seed, env_kwargs=of_suite)
    if env_id.endswith("Pixels-v0"):
        return make_pixel_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)
    return make_fast_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)


def join_logs(folder: Path, until: float = float("inf")) -> None:
    """
    Put the logs of all sessions into one progress.csv, CPU seconds counted on.

    :param folder: a run's folder
    :param until: the step that the next session goes on from: what was logged after it is forgotten
    """
    rows: list[dict[str, str]] = []
    for path in sorted(folder.glob("session_*.csv")):
        before = max((float(row["time/cpu_seconds"] or 0) for row in rows), default=0.0)
        with path.open() as file:
            content = list(csv.DictReader(file))
        if any(float(row["time/total_timesteps"]) > until for row in content):
            content = [row for row in content if float(row["time/total_timesteps"]) <= until]
            write_rows(path, content)
        for row in content:
            seconds = row.get("time/cpu_seconds")
            rows.append(row | ({"time/cpu_seconds": str(float(seconds) + before)} if seconds else {}))
    write_rows(folder / "progress.csv", rows)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}), restval="")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="metra", choices=sorted(METHODS))
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--out", type=Path, required=True, help="folder for progress.csv, settings.json and the model")
    parser.add_argument("--paper", action="store_true", help="the authors' settings, metra_paper.yml")
    parser.add_argument("--change", type=ast.literal_eval, default={}, help="settings to change, as a Python dict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="environment steps, if not those of the settings")
    parser.add_argument("--eval-freq", type=int, default=100_000)
    parser.add_argument("--eval-skills", type=int, default=48)
    parser.add_argument("--env-kwargs", type=ast.literal_eval, default={}, help="of all environments, as a Python dict")
    parser.add_argument("--cell-size", type=float, default=1.0, help="edge of a cell of coverage")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="wall time to train for, in this session")
    parser.add_argument("--checkpoint-minutes", type=float, default=0.0, help="between two checkpoints; 0: none")
    args = parser.parse_args()
    th.set_num_threads(1)
    settings = load_settings(args.env, args.algo, args.paper) | args.change
    steps = args.steps or settings["n_timesteps"]
    versions = {module.__name__: module.__version__ for module in (sb3_metra, stable_baselines3, th, gymnasium, np)}
    if args.env_kwargs:
        settings = settings | {"env_kwargs": args.env_kwargs | settings.get("env_kwargs", {})}
    record = {
        "algorithm": args.algo,
        "env": args.env,
        "seed": args.seed,
        "steps": steps,
        "settings": settings,
        "device": args.device,
    }
    if args.device != "cpu" and th.cuda.is_available():
        record["gpu"] = th.cuda.get_device_name()
    record |= {"python": platform.python_version(), "versions": versions}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "settings.json").write_text(json.dumps(record, indent=1) + "\n")

    algorithm = METHODS[args.algo]
    arguments = {key: value for key, value in settings.items() if key not in NOT_THE_MODELS}
    env = make_envs(args.env, settings["n_envs"], args.seed, settings.get("env_kwargs"))
    eval_env = make_envs(args.env, settings["n_envs"], env_kwargs=args.env_kwargs)
    checkpoints = args.out / "checkpoints"
    coverage = SkillEvalCallback(
        eval_env, args.eval_freq, args.eval_skills, cell_size=args.cell_size, best_model_save_path=args.out, verbose=1
    )
    if goes_on := checkpoints.is_dir():
        model = algorithm.resume(checkpoints, env, device=args.device)
        join_logs(args.out, model.num_timesteps)
    else:
        model = algorithm(env=env, seed=args.seed, device=args.device, **arguments)
    session = len(list(args.out.glob("session_*.csv")))
    model.set_logger(Logger(str(args.out), [CSVOutputFormat(str(args.out / f"session_{session:03}.csv"))]))
    keeper = TimedCheckpoint(checkpoints, args.minutes, args.checkpoint_minutes)
    start, before = time.process_time(), model.num_timesteps
    model.learn(steps - before, [keeper, coverage], log_interval=10**9, reset_num_timesteps=not goes_on)
    model.save(args.out / "model")
    model.logger.close()
    join_logs(args.out)
    if coverage.last_trajectories[0].coordinates.ndim == 2:
        plot_trajectories(coverage.last_trajectories, args.out / "skills.png")
    rate = (model.num_timesteps - before) / (time.monotonic() - keeper.started)
    print(f"{model.num_timesteps} steps, {rate:.0f} a second of the clock with evaluations", end="; ")
    print(f"{(time.process_time() - start) / 60:.1f} CPU minutes")
    if hasattr(model, "encode"):
        cosines = displacement_cosine(coverage.last_trajectories, model.encode, model.skill_prior)
        print(f"mean cosine of phi and skill {cosines.mean():.3f}")
    env.close()
    eval_env.close()


if __name__ == "__main__":
    main()
