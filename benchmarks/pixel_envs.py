"""Time the pixel environments: a step split into physics and drawing for both qualities, and steps of several workers.

Steps are timed by the CPU's clock, which other programs leave alone, and by the wall's, which counts waiting for a GPU.
The first table says what draws: OpenGL's GL_RENDERER, a GPU or the CPU (llvmpipe).

Usage: LP_NUM_THREADS=1 python benchmarks/pixel_envs.py --workers 1 2
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.envs.vec import measure_throughput

ENVIRONMENTS = tuple(
    f"sb3_metra/{name}-v0" for name in ("PixelPointMass", "QuadrupedPixels", "HumanoidPixels", "KitchenPixels")
)


def split(env_id: str, quality: str | None, repeats: int) -> tuple[str, list[float]]:
    """
    What draws, and median milliseconds of a step, of what is not drawing in it, and of the drawing: of the CPU, all
    threads together, then by the wall's clock.
    """
    env: Any = gym.make(env_id, **({} if quality is None else {"quality": quality})).unwrapped
    draw, drawing = env._draw, np.zeros(2)

    def timed_draw() -> np.ndarray:
        start = clocks()
        frame = draw()
        drawing[:] = clocks() - start
        return frame

    env._draw = timed_draw
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    steps = []
    for action in rng.uniform(-1, 1, (repeats, *env.action_space.shape)).astype(np.float32):
        start = clocks()
        env.step(action)
        step = clocks() - start
        steps.append((step, step - drawing, drawing.copy()))
    renderers = getattr(env, "_renderers", {}).values()
    renderer = next((each.gl_renderer for each in renderers), "NumPy")
    env.close()
    return renderer, (1e3 * np.median(steps, axis=0)).T.ravel().tolist()


def clocks() -> np.ndarray:
    """Seconds of this process's CPU, all threads together, and of the wall's clock."""
    return np.array([time.process_time(), time.perf_counter()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(ENVIRONMENTS))
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200, help="steps of each worker")
    parser.add_argument("--repeats", type=int, default=100, help="steps timed for each quality; 0: none")
    args = parser.parse_args()
    if args.repeats:
        show_drawing(args.envs, args.repeats)
    print("\n| environment | workers | steps a second |\n|---|---|---|")
    for env_id in args.envs:
        for n_envs in args.workers:
            per_second = measure_throughput(env_id, [n_envs], args.steps)[n_envs]
            print(f"| `{env_id}` | {n_envs} | {per_second:.0f} |", flush=True)


def show_drawing(env_ids: list[str], repeats: int) -> None:
    """Print the first table."""
    print("| environment | quality | drawn by | step, CPU ms | rest | drawing | step, wall ms | rest | drawing |")
    print("|---|---|---|---|---|---|---|---|---|")
    for env_id in env_ids:
        for quality in ("fast", "full") if "quality" in _arguments(env_id) else (None,):
            renderer, medians = split(env_id, quality, repeats)
            times = " | ".join(f"{value:.2f}" for value in medians)
            print(f"| `{env_id}` | {quality or '-'} | {renderer} | {times} |", flush=True)


def _arguments(env_id: str) -> tuple[str, ...]:
    """Names of the arguments of an environment's constructor."""
    constructor: Any = gym.envs.registration.load_env_creator(str(gym.spec(env_id).entry_point))
    return constructor.__init__.__code__.co_varnames[: constructor.__init__.__code__.co_argcount]


if __name__ == "__main__":
    main()
