"""Pixel environments in worker processes, one thread each, spread over the GPUs that can draw; how fast they are."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor

from sb3_metra.common.workers import WorkerError, WorkerVecEnv
from sb3_metra.envs import find_spec
from sb3_metra.envs.checks import check_integer
from sb3_metra.envs.rendering import count_egl_devices

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")


def make_pixel_vec_env(
    env_id: str | Callable[..., gym.Env],
    n_envs: int = 1,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    start_method: str | None = None,
    step_timeout: float | None = None,
) -> WorkerVecEnv:
    """
    Build environments that draw at the same time, each in its own process with one thread.

    An environment is made inside its process, with its OpenGL context. Several NVIDIA GPUs are shared among the
    processes, unless ``MUJOCO_EGL_DEVICE_ID`` names one. An error in a worker (a bad argument, a missing library) is
    raised here. If a worker fails or hangs later, a :class:`~sb3_metra.common.workers.WorkerError` names it.

    :param env_id: a registered environment, also as ``module:name``, or a function that makes one, such as
        ``make_pixel_env``
    :param n_envs: number of environments, at least 1
    :param seed: the environments are seeded with ``seed``, ``seed + 1``, ...
    :param env_kwargs: passed to ``gymnasium.make`` or to the function
    :param start_method: how processes are started: ``"forkserver"``, ``"spawn"`` or SB3's choice
    :param step_timeout: seconds without an answer after which a worker counts as hanging, ``math.inf`` for never; 30 by
        default, or 20 times the slowest answer so far, if that is more
    :return: the vectorised environment, whose episodes are monitored as in SB3's ``make_vec_env``
    """
    check_integer("n_envs", n_envs, 1)
    if seed is not None:
        check_integer("seed", seed, 0)
    if not isinstance(env_kwargs, dict | None):
        raise ValueError(f"env_kwargs must be a dict of an environment's arguments, or None, got {env_kwargs!r}.")
    if start_method == "fork":
        raise ValueError("start_method must be 'forkserver', 'spawn' or None, got 'fork': OpenGL does not survive it.")
    if not isinstance(env_id, str) and not callable(env_id):
        raise ValueError(f"env_id must be a registered name, or a function that makes an environment, got {env_id!r}.")
    if isinstance(env_id, str):
        find_spec(env_id)  # a name that nobody registered is refused here, not in a worker
    makers = [partial(_make_in_worker, env_id, dict(env_kwargs or {}), rank, seed) for rank in range(n_envs)]
    try:
        with _environ(_ONE_THREAD):
            vec_env = WorkerVecEnv(makers, start_method, step_timeout)
    except WorkerError as error:
        if isinstance(error.__cause__, ImportError | TypeError | ValueError):  # no worker can do what is asked
            raise error.__cause__ from None
        raise
    vec_env.seed(seed)
    return vec_env


def measure_throughput(
    env_id: str | Callable[..., gym.Env],
    n_workers: Iterable[int] = (1, 2, 4),
    steps: int = 200,
    env_kwargs: dict[str, Any] | None = None,
) -> dict[int, float]:
    """
    Measure how many steps per second environments make on this machine, each in its own process.

    Actions are random, and building the environments is not counted. Use the smallest number of workers beyond which
    the figure stops growing.

    :param env_id: a registered environment, or a function that makes one, such as ``make_pixel_env``
    :param n_workers: numbers of environments to try, each at least 1
    :param steps: steps of each environment, at least 1
    :param env_kwargs: passed to ``gymnasium.make`` or to the function
    :return: for each number of workers the steps per second of all together
    """
    check_integer("steps", steps, 1)
    if not isinstance(n_workers, Iterable):
        raise ValueError(f"n_workers must be several numbers of environments, such as (1, 2, 4), got {n_workers!r}.")
    measured = {}
    for n_envs in n_workers:
        env = make_pixel_vec_env(env_id, n_envs, seed=0, env_kwargs=env_kwargs)
        try:
            env.action_space.seed(0)
            actions = [np.stack([env.action_space.sample() for _ in range(n_envs)]) for _ in range(steps)]
            env.reset()
            env.step(actions[0])  # what is done once is done here
            start = time.perf_counter()
            for action in actions:
                env.step(action)
            measured[n_envs] = steps * n_envs / (time.perf_counter() - start)
        finally:
            env.close()
    return measured


@contextmanager
def _environ(variables: dict[str, str]) -> Iterator[None]:
    """
    Set environment variables for a while; processes that are started meanwhile keep them.

    :param variables: names and values
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_in_worker(
    env_id: str | Callable[..., gym.Env], env_kwargs: dict[str, Any], rank: int, seed: int | None
) -> gym.Env:
    """
    Make one environment; runs in its process.

    :param env_id: a registered environment, or a function that makes one
    :param env_kwargs: passed to ``gymnasium.make`` or to the function
    :param rank: the environment's number
    :param seed: seed of the action space, plus the rank
    :return: the environment
    """
    os.environ.update(_ONE_THREAD)  # for a server of processes that ran before and for libraries loaded from here on
    share_gpus(rank)
    if isinstance(env_id, str):
        import sb3_metra.envs  # noqa: F401  (registers the environments)

        env = gym.make(env_id, **env_kwargs)
    else:
        env = env_id(**env_kwargs)
    if seed is not None:
        env.action_space.seed(seed + rank)
    return Monitor(env)


def share_gpus(rank: int) -> None:
    """
    Choose the GPU that a process draws on, if there are several and ``MUJOCO_EGL_DEVICE_ID`` names none.

    :param rank: the process's number
    """
    if count_gpus() > 1 and (n_devices := min(count_gpus(), count_egl_devices())) > 1:
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", str(rank % n_devices))


def count_gpus(devices: Path = Path("/dev")) -> int:
    """
    Count the NVIDIA GPUs that this machine, or this container, may use.

    :param devices: folder of the device files
    :return: their number; 0 unless on Linux
    """
    if sys.platform != "linux":
        return 0
    return sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia*"))
