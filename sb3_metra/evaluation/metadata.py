"""What an environment's metadata say: the unit of its coordinates, and how far goals lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.evaluation.episodes import ask


def unit_of(env: VecEnv) -> str:
    """
    The unit of coordinates, ``env.metadata["unit"]``; empty if the environment does not say.

    :param env: environments
    """
    return str(_metadata(env).get("unit", ""))


def goal_range_of(env: VecEnv) -> tuple[float, ...] | None:
    """
    How far from the origin goals lie along each coordinate, ``env.metadata["goal_range"]``: a number, or one for each.

    :param env: environments, after a reset
    :return: half the edges of a box, (k,); ``None`` if the environment does not say
    """
    half_widths = _metadata(env).get("goal_range")
    if half_widths is None:
        return None
    n_coordinates = np.size(env.unwrapped.reset_infos[0].get("coordinates", half_widths))
    return tuple(np.broadcast_to(np.asarray(half_widths, np.float64), n_coordinates).tolist())


def frames_per_second_of(env: VecEnv) -> float | None:
    """
    Pictures per second in real time, ``env.metadata["render_fps"]``.

    :param env: environments
    :return: pictures per second; ``None`` if the environment does not say
    """
    return _metadata(env).get("render_fps")


def env_id_of(env: VecEnv) -> str:
    """
    The registered name of an environment, or that of its class.

    :param env: environments
    """
    spec = next(iter(ask(env, "spec")), None)
    return spec.id if spec is not None else type((ask(env, "unwrapped") or [env])[0]).__name__


def _metadata(env: VecEnv) -> dict[str, Any]:
    return next(iter(ask(env, "metadata")), None) or {}
