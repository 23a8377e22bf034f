"""Train METRA on one core with the shipped settings; record coverage over steps and CPU time as CSV, and the model."""

from __future__ import annotations

import argparse
import ast
import json
import platform
import time
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

import sb3_metra.envs  # registers the environments
from sb3_metra import METRA
from sb3_metra.evaluation import SkillEvalCallback
from sb3_metra.evaluation.faithfulness import displacement_cosine
from sb3_metra.evaluation.plotting import plot_trajectories
from sb3_metra.hyperparams import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--out", type=Path, required=True, help="folder for progress.csv, settings.json and the model")
    parser.add_argument("--paper", action="store_true", help="the authors' settings, metra_paper.yml")
    parser.add_argument("--change", type=ast.literal_eval, default={}, help="settings to change, as a Python dict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="environment steps, if not those of the settings")
    parser.add_argument("--eval-freq", type=int, default=100_000)
    args = parser.parse_args()
    th.set_num_threads(1)
    settings = load_settings(args.env, paper=args.paper) | args.change
    steps = args.steps or settings["n_timesteps"]
    versions = {module.__name__: module.__version__ for module in (sb3_metra, stable_baselines3, th, gymnasium, np)}
    record = {"env": args.env, "seed": args.seed, "steps": steps, "settings": settings}
    record |= {"python": platform.python_version(), "versions": versions}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "settings.json").write_text(json.dumps(record, indent=1) + "\n")

    arguments = {key: value for key, value in settings.items() if key not in ("n_timesteps", "n_envs", "env_kwargs")}
    env = make_vec_env(args.env, settings["n_envs"], seed=args.seed, env_kwargs=settings.get("env_kwargs"))
    model = METRA(env=env, seed=args.seed, device="cpu", **arguments)
    model.set_logger(configure(str(args.out), ["csv"]))
    eval_env = make_vec_env(args.env, settings["n_envs"])
    callback = SkillEvalCallback(eval_env, args.eval_freq, best_model_save_path=args.out, verbose=1)
    start = time.process_time()
    model.learn(steps, callback, log_interval=10**9)
    model.save(args.out / "model")
    cosines = displacement_cosine(callback.last_trajectories, model.encode, model.skill_prior)
    plot_trajectories(callback.last_trajectories, args.out / "skills.png")
    print(f"{(time.process_time() - start) / 60:.1f} CPU minutes, mean cosine of phi and skill {cosines.mean():.3f}")


if __name__ == "__main__":
    main()
