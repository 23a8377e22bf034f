"""
Time whole rounds of training: METRA in turn and overlapped, with Gymnasium's environments and in a batch, and SB3's SAC
with the same actor, critics, batches and numbers of steps, which has no phi to learn.

The settings are the shipped ones. Within every repeat, each variant takes as many rounds as the others, one after the
other; the first two of a repeat are left out. PyTorch computes on one thread, and so does the batch unless --threads
says more. CPU time counts all threads; the wall's clock is of use on idle cores only.

Usage: python benchmarks/rounds.py --env sb3_metra/Ant-v0 --rounds 10 --repeats 3
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra import METRA
from sb3_metra.envs.batch import make_batch_vec_env
from sb3_metra.hyperparams import load_settings

SHARED = ("learning_rate", "buffer_size", "batch_size", "tau", "gamma", "train_freq", "gradient_steps", "policy_kwargs")
LEFT_OUT = 2  # rounds: caches are filled, and the first overlapped one has nothing to learn from


class Rounds(BaseCallback):
    """Keeps the clock's seconds and the CPU's at the beginning and the end of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[tuple[float, float]] = []
        self.ends: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.begins.append((time.perf_counter(), time.process_time()))

    def _on_rollout_end(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def measure(self) -> dict[str, list[float]]:
        """Seconds of whole rounds, by the clock and the CPU, and of their two halves by the clock."""
        pairs = list(zip(self.begins, self.begins[1:], self.ends, strict=False))[LEFT_OUT:]
        return {
            "clock": [following[0] - begin[0] for begin, following, _ in pairs],
            "cpu": [following[1] - begin[1] for begin, following, _ in pairs],
            "stepping": [end[0] - begin[0] for begin, _, end in pairs],
            "learning": [following[0] - end[0] for _, following, end in pairs],
        }


def make_variants(env_id: str, n_threads: int, change: dict[str, Any]) -> dict[str, OffPolicyAlgorithm]:
    """The models to compare, by name."""
    settings = load_settings(env_id) | change
    n_envs, env_kwargs = settings.pop("n_envs"), settings.pop("env_kwargs", None)
    del settings["n_timesteps"]
    settings["learning_starts"] = 0

    def in_turn() -> VecEnv:
        return make_vec_env(env_id, n_envs, seed=0, env_kwargs=env_kwargs)

    def batch() -> VecEnv:
        return make_batch_vec_env(env_id, n_envs, seed=0, env_kwargs=env_kwargs, n_threads=n_threads)

    def metra(make: Callable[[], VecEnv], overlap: bool = False) -> METRA:
        return METRA(env=make(), seed=0, device="cpu", **(settings | {"overlap": overlap}))

    def sac(make: Callable[[], VecEnv]) -> SAC:
        shared = copy.deepcopy({name: settings[name] for name in SHARED if name in settings})  # SB3 adds to them
        return SAC("MlpPolicy", make(), seed=0, device="cpu", learning_starts=0, **shared)

    return {
        "SAC, environments in turn": sac(in_turn),
        "SAC, batch": sac(batch),
        "METRA, environments in turn": metra(in_turn),
        "METRA, batch": metra(batch),
        "METRA, environments in turn, overlap": metra(in_turn, overlap=True),
        "METRA, batch, overlap": metra(batch, overlap=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each variant in a repeat that count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the batch")
    parser.add_argument("--gradient-steps", type=int, help="in a round, if not those of the settings")
    parser.add_argument("--width", type=int, help="units of a hidden layer, if not those of the settings")
    args = parser.parse_args()
    th.set_num_threads(1)
    change: dict[str, Any] = {}
    if args.gradient_steps:
        change["gradient_steps"] = args.gradient_steps
    if args.width:
        change["policy_kwargs"] = change["phi_kwargs"] = {"net_arch": [args.width] * 2}
    models = make_variants(args.env, args.threads, change)
    steps = next(iter(models.values())).train_freq.frequency * next(iter(models.values())).n_envs  # type: ignore[union-attr]
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for _ in range(args.repeats):
        for name, model in models.items():
            rounds = Rounds()
            total = (args.rounds + LEFT_OUT + 1) * steps
            model.learn(total, rounds, log_interval=10**9, reset_num_timesteps=False)  # type: ignore[arg-type]
            for kind, values in rounds.measure().items():
                measured[name].setdefault(kind, []).extend(values)
    gradient_steps = next(iter(models.values())).gradient_steps
    print(f"{args.env}, rounds of {steps} steps and {gradient_steps} gradient steps, batch on {args.threads} thread(s)")
    print("| | steps a second of the clock | CPU microseconds a step | stepping, ms a round | learning, ms a round |")
    print("|---|---|---|---|---|")
    middle = {name: {kind: statistics.median(x) for kind, x in values.items()} for name, values in measured.items()}
    for name, x in middle.items():
        halves = ["", ""] if "overlap" in name else [f"{1e3 * x[kind]:.0f}" for kind in ("stepping", "learning")]
        print(f"| {name} | {steps / x['clock']:.0f} | {1e6 * x['cpu'] / steps:.0f} | {' | '.join(halves)} |")
    for envs in ("environments in turn", "batch"):
        halves_of = middle[f"METRA, {envs}"]
        longer = max(halves_of["stepping"], halves_of["learning"])
        ratio = middle[f"METRA, {envs}, overlap"]["clock"] / longer
        print(f"With overlap, {envs}: a round takes {ratio:.2f} times the longer half.")


if __name__ == "__main__":
    main()
