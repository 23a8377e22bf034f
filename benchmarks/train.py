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
import time
from pathlib import Path

import torch as th

from sb3_metra.evaluation.faithfulness import displacement_cosine
from sb3_metra.evaluation.plotting import plot_trajectories
from sb3_metra.hyperparams import load_settings
from sb3_metra.study.trial import METHODS, Trial, train


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
    if args.env_kwargs:
        settings = settings | {"env_kwargs": args.env_kwargs | settings.get("env_kwargs", {})}
    trial = Trial(
        args.algo,
        args.env,
        args.seed,
        args.steps or settings["n_timesteps"],
        settings,
        eval_freq=args.eval_freq,
        eval_episodes=args.eval_skills,
        cell_size=args.cell_size,
        eval_env_kwargs=args.env_kwargs,
    )
    how = {"minutes": args.minutes, "checkpoint_minutes": args.checkpoint_minutes, "verbose": 1}
    start = time.process_time()
    run = train(trial, args.out, args.device, **how)
    trajectories = run.coverage.last_trajectories
    if trajectories and trajectories[0].coordinates.ndim == 2:
        plot_trajectories(trajectories, args.out / "skills.png")
    print(
        f"{run.model.num_timesteps} steps, {run.steps / run.seconds:.0f} a second of the clock with evaluations; ",
        end="",
    )
    print(f"{(time.process_time() - start) / 60:.1f} CPU minutes")
    if trajectories and hasattr(run.model, "encode"):
        cosines = displacement_cosine(trajectories, run.model.encode, run.model.skill_prior)
        print(f"mean cosine of phi and skill {cosines.mean():.3f}")


if __name__ == "__main__":
    main()
