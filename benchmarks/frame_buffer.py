"""Bytes of a pixel transition, and the time to keep and to sample some: frames once beside stacks, in one process."""

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


def count_bytes(buffer: SkillReplayBuffer) -> int:
    """Bytes of all that a buffer keeps."""
    if isinstance(buffer, FrameReplayBuffer):
        return buffer.nbytes
    return sum(x.nbytes for x in vars(buffer).values() if isinstance(x, np.ndarray))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buffer-size", type=int, default=8_000)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--n-stack", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    th.set_num_threads(1)
    steps = make_steps(np.random.default_rng(0), args.n_envs, args.n_stack)
    space = spaces.Box(0, 255, (3 * args.n_stack, 64, 64), np.uint8)
    arguments: Any = (args.buffer_size, space, spaces.Box(-1.0, 1.0, (12,), np.float32), args.device, args.n_envs)
    buffers: dict[str, SkillReplayBuffer] = {"stacks": SkillReplayBuffer(*arguments, skill_dim=4)}
    frames = FrameReplayBuffer(*arguments, skill_dim=4, n_stack=args.n_stack)
    print(f"torch {th.__version__}, one thread; {frames}; {args.n_envs} environments, batch {args.batch_size}")
    buffers["frames"] = frames
    clock = time.perf_counter if frames.device.type == "cuda" else time.process_time  # CPU time, where that is all
    adding: dict[str, list[float]] = {name: [] for name in buffers}
    sampling: dict[str, list[float]] = {name: [] for name in buffers}
    for _ in range(2 * args.buffer_size // (EPISODE_LENGTH * args.n_envs)):  # the second time round is the steady state
        for name, buffer in buffers.items():
            start = clock()
            for step in steps:
                buffer.add(*step)
            adding[name].append((clock() - start) / EPISODE_LENGTH)
    for _ in range(args.repeats):
        for name, buffer in buffers.items():
            start = clock()
            buffer.sample(args.batch_size)
            if buffer.device.type == "cuda":
                th.cuda.synchronize()
            sampling[name].append(clock() - start)
    print("| kept | bytes a transition | ms to add a step of all environments | ms to sample |\n|---|---|---|---|")
    for name, buffer in buffers.items():
        size = count_bytes(buffer) / (buffer.buffer_size * buffer.n_envs)
        half = len(adding[name]) // 2
        add, sample = (1e3 * statistics.median(x) for x in (adding[name][half:], sampling[name]))
        print(f"| {name} | {size:,.0f} | {add:.2f} | {sample:.2f} |")


if __name__ == "__main__":
    main()
