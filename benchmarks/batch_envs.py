"""
Time a step of MuJoCo's bodies: the physics alone, MuJoCo's batch, Gymnasium's environment, SB3's vectors and ours.

All variants take the same actions from the same starts, one after the other within every repeat. CPU time counts all
threads; the wall's clock is of use on idle cores only.

Usage: python benchmarks/batch_envs.py --env sb3_metra/Ant-v0 --n-envs 8 --threads 2 --repeats 10
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import Batch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.envs.batch import make_batch_vec_env
from sb3_metra.envs.states import get_simulation, set_simulation

Run = Callable[[], None]


def make_bodies(env_id: str, n_envs: int) -> list[Any]:
    """Environments without wrappers, reset with the seeds that a vectorised environment gives."""
    bodies = [gym.make(env_id).unwrapped for _ in range(n_envs)]
    for seed, body in enumerate(bodies):
        body.reset(seed=seed)
    return bodies


def physics_alone(env_id: str, n_envs: int, actions: np.ndarray) -> Run:
    """MuJoCo's step, and nothing else, for one state after the other."""
    bodies = make_bodies(env_id, n_envs)
    starts = [get_simulation(body.model, body.data) for body in bodies]
    controls = bodies[0].controls(actions)

    def run() -> None:
        for body, start in zip(bodies, starts, strict=True):
            set_simulation(body.model, body.data, start)
        for step in controls:
            for body, control in zip(bodies, step, strict=True):
                body.data.ctrl[:] = control
                mujoco.mj_step(body.model, body.data, nstep=body.frame_skip)

    return run


def batch_alone(env_id: str, n_envs: int, actions: np.ndarray, n_threads: int) -> Run:
    """MuJoCo's batch, and nothing else."""
    bodies = make_bodies(env_id, n_envs)
    batch = Batch(bodies[0].model, n_envs, n_threads)
    starts = np.array([get_simulation(body.model, body.data) for body in bodies])
    controls, ctrl = bodies[0].controls(actions), batch.bind("ctrl")

    def run() -> None:
        batch.state[:] = starts
        for step in controls:
            ctrl[:] = step
            batch.step(nstep=bodies[0].frame_skip)

    return run


def environments(env_id: str, n_envs: int, actions: np.ndarray) -> Run:
    """Gymnasium's environments without wrappers, one after the other."""
    bodies = make_bodies(env_id, n_envs)

    def run() -> None:
        for seed, body in enumerate(bodies):
            body.reset(seed=seed)
        for step in actions:
            for body, action in zip(bodies, step, strict=True):
                body.step(action)

    return run


def vectorised(env: VecEnv, actions: np.ndarray) -> Run:
    """A vectorised environment, its episodes' ends and resets included."""

    def run() -> None:
        env.seed(0)
        env.reset()
        for step in actions:
            env.step(step)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="threads to compare with one")
    parser.add_argument("--steps", type=int, default=200, help="steps of every environment in one measurement")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    n_actions = gym.make(args.env).action_space.shape[0]  # type: ignore[index]
    actions = np.random.default_rng(0).uniform(-1, 1, (args.steps, args.n_envs, n_actions)).astype(np.float32)

    def ours(n_threads: int) -> Run:
        return vectorised(make_batch_vec_env(args.env, args.n_envs, n_threads=n_threads), actions)

    variants: dict[str, Run] = {
        "physics alone": physics_alone(args.env, args.n_envs, actions),
        "Batch, 1 thread": batch_alone(args.env, args.n_envs, actions, 1),
        "Gymnasium's environments": environments(args.env, args.n_envs, actions),
        "DummyVecEnv with Monitor": vectorised(make_vec_env(args.env, args.n_envs), actions),
        "batched, 1 thread": ours(1),
        f"batched, {args.threads} threads": ours(args.threads),
    }
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    wall: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, run in variants.items():
            start = time.perf_counter(), time.process_time()
            run()
            steps = args.steps * args.n_envs
            wall[name].append(1e6 * (time.perf_counter() - start[0]) / steps)
            cpu[name].append(1e6 * (time.process_time() - start[1]) / steps)
    print(f"{args.env}, {args.n_envs} environments, {args.repeats} repeats of {args.steps} steps, medians")
    print("| | CPU microseconds a step | times the physics | steps a second of the clock | clock, times 1 thread |")
    print("|---|---|---|---|---|")
    for name in variants:
        ratio = statistics.median(ours / alone for ours, alone in zip(cpu[name], cpu["physics alone"], strict=True))
        clock = statistics.median(mine / one for mine, one in zip(wall[name], wall["batched, 1 thread"], strict=True))
        rate = 1e6 / statistics.median(wall[name])
        print(f"| {name} | {statistics.median(cpu[name]):.0f} | {ratio:.2f} | {rate:.0f} | {clock:.2f} |")


if __name__ == "__main__":
    main()
