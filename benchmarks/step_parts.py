"""
Time a round of learning by its parts: transfer, acting, sampling, phi, reward, critics, actor, moving average.

At the paper's sizes by default: batch 256, hidden layers 2x1024, and images of 64x64x9 with separate encoders. CPU time
on a CPU, wall time with the device waited for on a GPU; medians. Variants take turns, so that they share the machine's
moods. Usage: python benchmarks/step_parts.py --observations pixels --variants float32 bfloat16
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_metra import METRA
from sb3_metra.common.optimization import fast_kernels, set_learning_rate

EPISODE_LENGTH, N_ENVS = 200, 8
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "channels first": {"policy_kwargs": {"features_extractor_kwargs": {"channels_last": False}}},
    "shared critic encoder": {"policy_kwargs": {"share_critic_encoder": True}},
    "tf32": {"tf32": True},
    "bfloat16": {"bfloat16": True, "tf32": True},
}


class _Spaces(gym.Env):
    """An environment that is only its spaces: Quadruped's from pixels, or Ant's."""

    frame_stack = 3

    def __init__(self, pixels: bool) -> None:
        image = spaces.Box(0, 255, (9, 64, 64), np.uint8)
        self.observation_space = image if pixels else spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (12 if pixels else 8,), np.float32)


def fill(model: METRA) -> np.ndarray:
    """One episode of random observations for each environment in the replay buffer; the last ones are returned."""
    assert model.replay_buffer is not None
    rng, space, shape = np.random.default_rng(0), model.observation_space, model.action_space.shape
    infos = [{"skill": skill} for skill in model.skill_prior.sample(N_ENVS, rng)]
    if len(space.shape or ()) == 3:
        obs = np.tile(rng.integers(256, size=(N_ENVS, 3, 64, 64), dtype=np.uint8), (1, 3, 1, 1))
    else:
        obs = rng.normal(size=(N_ENVS, 29)).astype(np.float32)
    for step in range(EPISODE_LENGTH):
        following = rng.normal(size=obs.shape).astype(np.float32)
        if obs.ndim == 4:
            frame = rng.integers(256, size=(N_ENVS, 3, 64, 64), dtype=np.uint8)
            following = np.concatenate([obs[:, 3:], frame], axis=1)
        actions = rng.uniform(-1, 1, (N_ENVS, *(shape or ()))).astype(np.float32)
        done = np.full(N_ENVS, step == EPISODE_LENGTH - 1)
        model.replay_buffer.add(obs, following, actions, np.zeros(N_ENVS), done, infos)
        obs = following
    return obs


def make_parts(model: METRA, observations: np.ndarray, batch_size: int) -> dict[str, Callable[[], Any]]:
    """Each part of a round as a function of nothing."""
    buffer, policy = model.replay_buffer, model.policy
    assert buffer is not None
    policy.set_training_mode(True)
    for optimizer in (model.objective_optimizer, model.actor.optimizer, model.critic.optimizer):
        set_learning_rate(optimizer, 1e-4, model._captures)  # as train() does: else no step can be recorded
    batch: Any = buffer.sample(batch_size)
    prepare = functools.partial(policy.prepare, bfloat16=model.bfloat16)
    prepared = batch._replace(
        observations=prepare(batch.observations), next_observations=prepare(batch.next_observations)
    )
    failed = th.zeros((), device=model.device)
    skills = model.skill_prior.sample(len(observations))
    on_device, _ = policy.obs_to_tensor(observations)

    def act() -> None:
        policy.act(on_device, skills)

    def reward() -> None:
        with model._autocast():
            model.objective.reward(prepared)

    def descend(optimizer: th.optim.Optimizer, loss: Any) -> Callable[[], Any]:
        return functools.partial(model._step, "part", optimizer, loss, prepared, failed)

    parts: dict[str, Callable[[], Any]] = {
        "transfer of 8 observations": lambda: policy.obs_to_tensor(observations),
        "acting in 8 environments": act,
        "sampling": lambda: buffer.sample(batch_size),
        "preparing": lambda: (prepare(batch.observations), prepare(batch.next_observations)),
        "phi and lambda": descend(model.objective_optimizer, model.objective.loss),
        "reward": reward,
        "critics": descend(model.critic.optimizer, model.critic_loss),
        "actor": descend(model.actor.optimizer, model.actor_loss),
        "gradient step": lambda: model.gradient_step(batch, batch_size),
    }
    if model.device.type == "cuda":
        for _ in range(5):
            model._captured_step(batch, batch_size)
        if not model._captured_step.is_recorded:
            return parts
        parts["gradient step, CUDA graph"] = lambda: model._captured_step(batch, batch_size)
        parts["sampling and CUDA graph"] = lambda: model._captured_step(buffer.sample(batch_size), batch_size)
    return parts


def measure(part: Callable[[], Any], device: th.device, calls: int) -> float:
    """Milliseconds of one call: of the CPU, or of the clock where a GPU does the work."""
    if device.type == "cpu":
        start = time.process_time()
        part()
        return 1e3 * (time.process_time() - start)
    th.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        part()
    th.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", choices=["pixels", "state"], default="pixels")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["float32", "channels first", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calls", type=int, default=20, help="calls in one measurement on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file to write, too")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    pixels = args.observations == "pixels"
    parts, models, device = {}, {}, th.device("cpu")
    for name in args.variants:
        kwargs: dict[str, Any] = {"policy_kwargs": {}} | VARIANTS[name]
        arch = {"net_arch": [args.width, args.width]}
        model = models[name] = METRA(
            "CnnPolicy" if pixels else "MlpPolicy",
            _Spaces(pixels),
            skill_dim=4 if pixels else 2,
            buffer_size=EPISODE_LENGTH * N_ENVS,
            phi_kwargs=arch,
            device=args.device,
            **(kwargs | {"policy_kwargs": kwargs["policy_kwargs"] | arch}),
        )
        model.replay_buffer = model.replay_buffer_class(
            EPISODE_LENGTH * N_ENVS, model.observation_space, model.action_space, model.device, N_ENVS,
            **model.replay_buffer_kwargs,
        )  # fmt: skip
        device = model.device
        with fast_kernels(device, model.tf32):  # as in train()
            parts[name] = make_parts(model, fill(model), args.batch_size)
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in parts[name]} for name in parts}
    for i in range(args.repeats + 1):
        for name, variant in parts.items():
            for part, function in variant.items():
                with fast_kernels(device, models[name].tf32):
                    elapsed = measure(function, device, args.calls)
                if i > 0:  # warmed up
                    times[name][part].append(elapsed)
    medians = {name: {part: statistics.median(x) for part, x in variant.items()} for name, variant in times.items()}
    where = th.cuda.get_device_name() if device.type == "cuda" else f"{args.threads} CPU thread(s)"
    print(f"torch {th.__version__}, {where}; {args.observations}, batch {args.batch_size}, 2x{args.width}")
    print(f"| milliseconds, median of {args.repeats} | {' | '.join(medians)} |\n|---|{'---|' * len(medians)}")
    for part in max(medians.values(), key=len):
        print(
            f"| {part} | {' | '.join(f'{x[part]:,.2f}' if part in x else 'not recorded' for x in medians.values())} |"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"where": where, "torch": th.__version__, "ms": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
