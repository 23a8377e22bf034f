"""
Time training with collectors on Ray beside the plain loop, in turn, and measure what they send.

The settings are the shipped ones. The environment may sleep at each step, as one does that waits for a device or a
simulator elsewhere; sleeping needs no CPU, so that the speed of several collectors can be measured on few cores. With
--nodes, each collector is alone on a node of a cluster on this machine, whose head has no room for one.

Usage: python benchmarks/collectors.py --env sb3_metra/PointMass-v0 --sleep-ms 5
       python benchmarks/collectors.py --env sb3_metra/Ant-v0 --nodes
       python benchmarks/collectors.py --env sb3_metra/HalfCheetah-v0 --collectors --repeats 5
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import ray
import torch as th
from ray.cluster_utils import Cluster
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.collectors import LocalCollectors, RayCollectors
from sb3_metra.hyperparams import load_settings


class Sleeping(gym.Wrapper):
    """An environment whose steps take longer."""

    def __init__(self, env: gym.Env, seconds: float) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        return self.env.step(action)


def make_env(env_id: str, env_kwargs: dict[str, Any], seconds: float) -> gym.Env:
    import sb3_metra.envs  # noqa: F401  (registers the environments where a collector is)

    env = gym.make(env_id, **env_kwargs)
    return Sleeping(env, seconds) if seconds else env


class Noted(LocalCollectors):
    """Collectors in this process that keep what they would send, and count steps and CPU seconds."""

    steps, seconds = 0, 0.0

    def send(self, index: int, order: Any, weights: Any) -> None:
        self.weights = weights
        super().send(index, order, weights)

    def receive(self, wait: bool) -> Any:
        begin = time.process_time()
        self.answers = super().receive(wait)
        self.seconds += time.process_time() - begin
        self.steps += sum(len(episode) for _, answer in self.answers for episode in answer.episodes)
        return self.answers


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[str | None]:
    """A cluster on this machine with as many nodes of one CPU; none: Ray's own."""
    if not nodes:
        yield None
        return
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        made.add_node(num_cpus=1)
    try:
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


class Bench:
    """
    Makes and times models.

    :param args: of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        settings = load_settings(args.env) | {"learning_starts": 0, "seed": 0, "device": "cpu"}
        if args.width:
            settings["policy_kwargs"] = settings["phi_kwargs"] = {"net_arch": [args.width] * 2}
        if args.gradient_steps:
            settings["gradient_steps"] = args.gradient_steps
        self.n_envs, env_kwargs = settings.pop("n_envs"), settings.pop("env_kwargs", None) or {}
        del settings["n_timesteps"]
        self.settings, self.args = settings, args
        self.env = partial(make_env, args.env, env_kwargs, args.sleep_ms / 1e3)

    def model(self, collectors: Any = None, **kwargs: Any) -> METRA:
        """A model in as many environments as the settings say."""
        env = make_vec_env(self.env, self.n_envs, seed=0)
        return METRA(env=env, collectors=collectors, **(self.settings | kwargs))

    def rates(self, model: METRA) -> tuple[float, float]:
        """Steps a second of the clock, and this process's CPU microseconds a step, after two rounds."""
        round_ = model.train_freq.frequency * model.n_envs  # type: ignore[union-attr]
        model.learn(2 * round_, log_interval=10**9)
        steps, clock, cpu = self.args.rounds * round_, time.perf_counter(), time.process_time()
        model.learn(steps, log_interval=10**9, reset_num_timesteps=False)
        return steps / (time.perf_counter() - clock), 1e6 * (time.process_time() - cpu) / steps

    def print_messages(self) -> None:
        """Sizes of what is sent, and what it costs the learner to play an episode back."""
        model = self.model(collectors := Noted(self.env, max_staleness=0), learning_starts=10**9)
        round_ = model.train_freq.frequency * model.n_envs  # type: ignore[union-attr]
        model.learn(round_)
        ((_, answer),) = collectors.answers
        episode = answer.episodes[0]
        sizes = [len(pickle.dumps(x, protocol=5)) for x in (episode, collectors.weights)]
        print(f"an episode of {len(episode)} steps: {sizes[0]} bytes, the actor's weights: {sizes[1]} bytes")
        play, run = [], []
        for _ in range(self.args.repeats):
            collectors.steps, collectors.seconds, begin = 0, 0.0, time.process_time()
            model.learn(round_, reset_num_timesteps=False)
            play.append(1e6 * (time.process_time() - begin - collectors.seconds) / round_)
            run.append(1e6 * collectors.seconds / collectors.steps)
        run_, play_ = statistics.median(run), statistics.median(play)
        print(f"CPU microseconds a step: {run_:.0f} to run it, {play_:.0f} to play it back and store it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="sb3_metra/PointMass-v0")
    parser.add_argument("--sleep-ms", type=float, default=0.0)
    parser.add_argument("--collectors", type=int, nargs="*", default=[1, 2], help="none: only messages")
    parser.add_argument("--nodes", action="store_true", help="each collector on a node of its own")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count in a repeat")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--width", type=int, help="units of a hidden layer, if not those of the settings")
    parser.add_argument("--gradient-steps", type=int, help="in a round, if not those of the settings")
    args = parser.parse_args()
    th.set_num_threads(1)
    bench = Bench(args)
    if not args.sleep_ms:
        bench.print_messages()
    if not args.collectors:
        return
    measured: dict[str, list[tuple[float, float]]] = {}
    with cluster(max(args.collectors) if args.nodes else 0) as address:
        if address is None:
            ray.init(num_cpus=max(args.collectors), include_dashboard=False, log_to_driver=False)
        for _ in range(args.repeats):
            measured.setdefault("plain loop", []).append(bench.rates(bench.model()))
            for n in args.collectors:
                collectors = RayCollectors(bench.env, n, address=address)
                measured.setdefault(f"{n} collector(s)", []).append(bench.rates(bench.model(collectors)))
                collectors.close()
    medians = {name: [statistics.median(x) for x in zip(*rates, strict=True)] for name, rates in measured.items()}
    print(f"{args.env}, {args.sleep_ms:g} ms of sleep a step, {bench.n_envs} environments here and in each collector")
    print("| | steps a second of the clock | times the plain loop | CPU microseconds a step of the learner |")
    print("|---|---|---|---|")
    for name, (rate, cpu) in medians.items():
        print(f"| {name} | {rate:.0f} | {rate / medians['plain loop'][0]:.2f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
