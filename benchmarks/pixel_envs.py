"""Time the pixel environments: a step split into physics and drawing for both qualities, and steps of several workers.

Usage: LP_NUM_THREADS=1 python benchmarks/pixel_envs.py --workers 1 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.envs.vec import measure_throughput

ENVIRONMENTS = tuple(
    f"sb3_metra/{name}-v0" for name in ("PixelPointMass", "QuadrupedPixels", "HumanoidPixels", "KitchenPixels")
)


def split(env_id: str, quality: str | None, repeats: int) -> tuple[float, float, float]:
    """Median CPU milliseconds of a step, of what is not drawing in it, and of the drawing; all threads together."""
    env: Any = gym.make(env_id, **({} if quality is None else {"quality": quality})).unwrapped
    draw, drawing = env._draw, [0.0]

    def timed_draw() -> np.ndarray:
        start = time.process_time()
        frame = draw()
        drawing[-1] = time.process_time() - start
        return frame

    env._draw = timed_draw
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    rest = []
    for action in rng.uniform(-1, 1, (repeats, *env.action_space.shape)).astype(np.float32):
        drawing.append(0.0)
        start = time.process_time()
        env.step(action)
        rest.append(time.process_time() - start - drawing[-1])
    env.close()
    whole = [a + b for a, b in zip(rest, drawing[1:], strict=True)]
    step, other, drawn = (1e3 * statistics.median(times) for times in (whole, rest, drawing[1:]))
    return step, other, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(ENVIRONMENTS))
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200, help="steps of each worker")
    parser.add_argument("--repeats", type=int, default=100, help="steps timed for each quality")
    args = parser.parse_args()
    print("| environment | quality | step, CPU ms | physics and the rest | drawing |\n|---|---|---|---|---|")
    for env_id in args.envs:
        for quality in ("fast", "full") if "quality" in _arguments(env_id) else (None,):
            times = " | ".join(f"{value:.2f}" for value in split(env_id, quality, args.repeats))
            print(f"| `{env_id}` | {quality or '-'} | {times} |", flush=True)
    print("\n| environment | workers | steps a second |\n|---|---|---|")
    for env_id in args.envs:
        for n_envs in args.workers:
            per_second = measure_throughput(env_id, [n_envs], args.steps)[n_envs]
            print(f"| `{env_id}` | {n_envs} | {per_second:.0f} |", flush=True)


def _arguments(env_id: str) -> tuple[str, ...]:
    """Names of the arguments of an environment's constructor."""
    constructor: Any = gym.envs.registration.load_env_creator(str(gym.spec(env_id).entry_point))
    return constructor.__init__.__code__.co_varnames[: constructor.__init__.__code__.co_argcount]


if __name__ == "__main__":
    main()
