"""Measure the fixed normalisation of the state environments from random rollouts, and write it into the package.

Usage: python benchmarks/measure_normalization.py --rollouts 10000 --length 50 --seed 0
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.envs.locomotion import NORMALIZATION_PATH, AntEnv, HalfCheetahEnv
from sb3_metra.envs.suite import HumanoidEnv, QuadrupedEnv

ENVIRONMENTS = (AntEnv.env_id, HalfCheetahEnv.env_id, QuadrupedEnv.env_id, HumanoidEnv.env_id)


def collect(env: gym.Env, rollouts: int, length: int, seed: int) -> np.ndarray:
    """
    Gather the states in which uniformly random actions are taken: all of a rollout but the one it ends in.

    :param env: An environment that observes the plain state and does not terminate
    :param rollouts: Number of rollouts
    :param length: Steps of a rollout
    :param seed: Seed of the environment and of the actions
    :return: ``(rollouts * length, n_dims)``, float64
    """
    body: Any = env.unwrapped
    assert isinstance(env.action_space, gym.spaces.Box)
    low, high = env.action_space.low, env.action_space.high
    rng = np.random.default_rng(seed)
    states = np.empty((rollouts, length, body.model.nq + body.model.nv + body.model.na))
    body.reset(seed=seed)
    for rollout in states:
        body.reset()
        for state, action in zip(rollout, rng.uniform(low, high, size=(length, low.size)), strict=True):
            state[:] = body.state_vector()
            body.do_simulation(action, body.frame_skip)
    return states.reshape(rollouts * length, -1)


def significant(values: np.ndarray, digits: int = 7) -> list[float]:
    """
    Round to a number of significant digits.

    :param values: ``(n,)``
    :param digits: How many digits to keep
    :return: The rounded values
    """
    return [float(f"{value:.{digits}g}") for value in values]


def measure(env_id: str, rollouts: int, length: int, seed: int) -> dict[str, list[float]]:
    """
    Measure one environment.

    :param env_id: The environment's id
    :param rollouts: Number of rollouts
    :param length: Steps of a rollout
    :param seed: Seed of the environment and of the actions
    :return: Mean and standard deviation of every dimension
    """
    env = gym.make(env_id, normalize=False)
    started = time.perf_counter()
    states = collect(env, rollouts, length, seed)
    env.close()
    mean, std = states.mean(axis=0), states.std(axis=0)
    if not (np.isfinite(states).all() and (std > 0).all()):
        raise RuntimeError(f"{env_id}: every dimension must be finite and vary, got standard deviations {std}.")
    print(f"{env_id}: {len(states):,} states in {time.perf_counter() - started:.0f} s")
    return {"mean": significant(mean), "std": significant(std)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=10_000, help="rollouts of each environment")
    parser.add_argument("--length", type=int, default=50, help="steps of a rollout")
    parser.add_argument("--seed", type=int, default=0, help="seed of the environments and of the actions")
    parser.add_argument("--output", type=Path, default=NORMALIZATION_PATH, help="file to write, the package's own")
    args = parser.parse_args()
    if min(args.rollouts, args.length) < 1:
        parser.error(f"--rollouts and --length must be at least 1, got {args.rollouts} and {args.length}")

    environments = {env_id: measure(env_id, args.rollouts, args.length, args.seed) for env_id in ENVIRONMENTS}
    provenance = {
        "command": "python benchmarks/measure_normalization.py"
        f" --rollouts {args.rollouts} --length {args.length} --seed {args.seed}",
        "rollouts": args.rollouts,
        "length": args.length,
        "seed": args.seed,
        "states": "those in which an action is taken: all of a rollout but the one it ends in",
        "actions": "uniform over the action space",
        "termination": "none",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "gymnasium": gym.__version__,
            "mujoco": mujoco.__version__,
        },
    }
    document = {"provenance": provenance, "environments": environments}
    args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
