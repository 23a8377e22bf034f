"""Time collecting transitions beside the environments alone and beside SB3's SAC, in one process; and replay memory."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA


def stepping(env: VecEnv, steps: int) -> Callable[[], None]:
    """Nothing but the environments, with actions drawn beforehand."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, env.num_envs, 8)).astype(np.float32)
    env.reset()

    def run() -> None:
        for action in actions:
            env.step(action)

    return run


def collecting(model: OffPolicyAlgorithm, steps: int) -> Callable[[], None]:
    """Acting, stepping and storing, without a gradient step."""
    model.learn(model.n_envs)

    def run() -> None:
        model.learn(steps * model.n_envs, reset_num_timesteps=False)

    return run


def replay_bytes(model: OffPolicyAlgorithm) -> float:
    """Bytes of all arrays of the replay buffer, for one transition."""
    assert model.replay_buffer is not None
    arrays = [x for x in vars(model.replay_buffer).values() if isinstance(x, np.ndarray)]
    return sum(x.nbytes for x in arrays) / (model.replay_buffer.buffer_size * model.n_envs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="sb3_metra/Ant-v0")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200, help="steps of all environments in one measurement")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    th.set_num_threads(1)
    common = {"seed": 0, "device": "cpu", "learning_starts": 10**9, "train_freq": args.steps, "buffer_size": 100_000}
    arch = {"net_arch": [args.width, args.width]}
    envs = [make_vec_env(args.env, args.n_envs, seed=0) for _ in range(3)]
    metra = METRA("MlpPolicy", envs[1], policy_kwargs=arch, phi_kwargs=arch, **common)
    sac = SAC("MlpPolicy", envs[2], policy_kwargs=arch, **common)
    sac._sample_action = lambda *_: _act(sac)  # type: ignore[method-assign]  # no random warm-up: act with the policy
    runs = {"environments alone": stepping(envs[0], args.steps)}
    runs |= {
        "METRA: act, step, store": collecting(metra, args.steps),
        "SAC: act, step, store": collecting(sac, args.steps),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(1e6 * (time.process_time() - start) / (args.steps * args.n_envs))
    print(f"{args.env}, {args.n_envs} environments in a DummyVecEnv, hidden layers 2x{args.width}, one thread")
    print("| | CPU microseconds a transition, median | times the environments alone |\n|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(b / a for a, b in zip(times["environments alone"], values, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} |")
    print(f"replay: {replay_bytes(metra):.0f} bytes a transition (SAC: {replay_bytes(sac):.0f})")


def _act(model: SAC) -> tuple[np.ndarray, np.ndarray]:
    assert model._last_obs is not None
    actions, _ = model.predict(model._last_obs, deterministic=False)
    scaled = model.policy.scale_action(actions)
    return model.policy.unscale_action(scaled), scaled


if __name__ == "__main__":
    main()
