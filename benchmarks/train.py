"""Train METRA on one core and record coverage over environment steps and CPU time as CSV, with the model."""

from __future__ import annotations

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_metra import METRA
from sb3_metra.evaluation import SkillEvalCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for progress.csv, settings.json and the model")
    parser.add_argument("--eval-freq", type=int, default=100_000)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--env-kwargs", default="{}", help="of the training environments alone, a Python dict")
    parser.add_argument("--kwargs", default="{}", help="arguments of METRA, a Python dict")
    args = parser.parse_args()
    th.set_num_threads(1)
    env_kwargs, kwargs = ast.literal_eval(args.env_kwargs), ast.literal_eval(args.kwargs)
    env = make_vec_env(args.env, args.n_envs, seed=args.seed, env_kwargs=env_kwargs)
    model = METRA("MlpPolicy", env, seed=args.seed, device="cpu", **kwargs)
    model.set_logger(configure(str(args.out), ["csv", "log"]))
    settings: dict[str, Any] = {"env": args.env, "steps": args.steps, "seed": args.seed, "n_envs": args.n_envs}
    settings |= {"env_kwargs": env_kwargs, "kwargs": {key: str(value) for key, value in kwargs.items()}}
    (args.out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    callback = SkillEvalCallback(
        make_vec_env(args.env, args.n_envs), args.eval_freq, best_model_save_path=args.out, verbose=1
    )
    start = time.process_time()
    model.learn(args.steps, callback, log_interval=10**9)
    print(f"{args.steps} steps in {(time.process_time() - start) / 60:.1f} CPU minutes")
    model.save(args.out / "model")


if __name__ == "__main__":
    main()
