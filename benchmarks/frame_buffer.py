"""Bytes of a transition, and the time to keep and to sample some: states, frames once beside stacks, in one process."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.frame_buffer import FrameReplayBuffer

EPISODE_LENGTH = 200


def make_steps(rng: np.random.Generator, n_envs: int, n_stack: int) -> list[tuple[Any, ...]]:
    """One episode of random 64x64 RGB frames in each environment, step by step."""
    frames = rng.integers(256, size=(EPISODE_LENGTH + 1, n_envs, 3, 64, 64), dtype=np.uint8)
    rows = [[max(t - back, 0) for back in reversed(range(n_stack))] for t in range(EPISODE_LENGTH + 1)]
    stacks = [np.concatenate(list(frames[row]), axis=1) for row in rows]
    infos = [{"skill": np.zeros(4, dtype=np.float32)}] * n_envs
    action, reward = np.zeros((n_envs, 12), dtype=np.float32), np.zeros(n_envs)
    return [
        (stacks[t], stacks[t + 1], action, reward, np.full(n_envs, t == EPISODE_LENGTH - 1), infos)
        for t in range(EPISODE_LENGTH)
    ]


def make_state_steps(rng: np.random.Generator, n_envs: int, dim: int) -> list[tuple[Any, ...]]:
    """One episode of random states in each environment, step by step."""
    states = rng.normal(size=(EPISODE_LENGTH + 1, n_envs, dim))
    infos = [{"skill": np.zeros(4, dtype=np.float32)} for _ in range(n_envs)]
    action, reward = np.zeros((n_envs, 12), dtype=np.float32), np.zeros(n_envs, dtype=np.float32)
    return [
        (states[t], states[t + 1], action, reward, np.full(n_envs, t == EPISODE_LENGTH - 1), infos)
        for t in range(EPISODE_LENGTH)
    ]


def count_bytes(buffer: SkillReplayBuffer) -> int:
    """Bytes of all that a buffer keeps."""
    if isinstance(buffer, FrameReplayBuffer):
        return buffer.nbytes
    return sum(x.nbytes for x in vars(buffer).values() if isinstance(x, np.ndarray))


def time_sampling(buffer: SkillReplayBuffer, batch_size: int, with_episodes: bool, clock: Any) -> float:
    """Seconds for one batch."""
    start = clock()
    if with_episodes:
        buffer.sample_with_episodes(batch_size, ahead=(1, 5))
    else:
        buffer.sample(batch_size)
    if buffer.device.type == "cuda":
        th.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buffer-size", type=int, default=8_000)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--n-stack", type=int, default=3)
    parser.add_argument("--state-dim", type=int, default=29)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    th.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixel_steps, state_steps = (
        make_steps(rng, args.n_envs, args.n_stack),
        make_state_steps(rng, args.n_envs, args.state_dim),
    )
    images = spaces.Box(0, 255, (3 * args.n_stack, 64, 64), np.uint8)
    states = spaces.Box(-np.inf, np.inf, (args.state_dim,), np.float64)
    rest: Any = (spaces.Box(-1.0, 1.0, (12,), np.float32), args.device, args.n_envs)
    frames = FrameReplayBuffer(args.buffer_size, images, *rest, skill_dim=4, n_stack=args.n_stack)
    print(f"torch {th.__version__}, one thread; {frames}; {args.n_envs} environments, batch {args.batch_size}")
    buffers: dict[str, tuple[SkillReplayBuffer, list[Any]]] = {
        "states": (SkillReplayBuffer(args.buffer_size, states, *rest, skill_dim=4), state_steps),
        "stacks": (SkillReplayBuffer(args.buffer_size, images, *rest, skill_dim=4), pixel_steps),
        "frames": (frames, pixel_steps),
    }
    clock = time.perf_counter if frames.device.type == "cuda" else time.process_time  # CPU time, where that is all
    adding: dict[str, list[float]] = {name: [] for name in buffers}
    sampling: dict[tuple[str, bool], list[float]] = {(name, way): [] for name in buffers for way in (False, True)}
    for _ in range(2 * args.buffer_size // (EPISODE_LENGTH * args.n_envs)):  # the second time round is the steady state
        for name, (buffer, steps) in buffers.items():
            start = clock()
            for step in steps:
                buffer.add(*step)
            adding[name].append((clock() - start) / EPISODE_LENGTH)
    for _ in range(args.repeats):
        for (name, with_episodes), times in sampling.items():
            times.append(time_sampling(buffers[name][0], args.batch_size, with_episodes, clock))
    print("| kept | bytes a transition | ms to add a step of all environments | ms to sample | with episodes |")
    print("|---|---|---|---|---|")
    for name, (buffer, _) in buffers.items():
        size = count_bytes(buffer) / (buffer.buffer_size * buffer.n_envs)
        half = len(adding[name]) // 2
        ms = [1e3 * statistics.median(x) for x in (adding[name][half:], sampling[name, False], sampling[name, True])]
        print(f"| {name} | {size:,.0f} | {' | '.join(f'{x:.2f}' for x in ms)} |")


if __name__ == "__main__":
    main()
