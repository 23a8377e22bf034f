"""``collectors`` in settings of studies and of ``sb3-metra train``: their number, or arguments of RayCollectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from sb3_metra.collectors.on_ray import CHECKS, RayCollectors
from sb3_metra.common.arguments import ARGUMENTS, check_names, check_table, either, integer


def read_collectors(value: Any, where: str = "", own: Collection[str] = ()) -> dict[str, Any]:
    """
    Arguments of :class:`~sb3_metra.collectors.RayCollectors`, without its environment.

    :param value: the number of collectors, or arguments by name
    :param where: where it was given, to end an error with
    :param own: arguments that the caller sets
    :raises ValueError: for the first that does not fit
    """
    value = either(integer(1), ARGUMENTS)("collectors", value, where)
    named = value if isinstance(value, dict) else {"n": value}
    try:
        check_names("collectors", named, RayCollectors, {"env", *own})
    except ValueError as error:
        raise ValueError(f"{error} {where}".rstrip()) from error
    return check_table(CHECKS, {"n": 1, "num_cpus": 1} | named, f"in collectors {where}".rstrip())


def make_env(
    spec: EnvSpec, env_kwargs: Mapping[str, Any] | None = None, wrapper: Callable[[gym.Env], gym.Env] | None = None
) -> gym.Env:
    """
    An environment, also in a process that has not registered it.

    :param spec: what it is registered as
    :param env_kwargs: passed to ``gymnasium.make``
    :param wrapper: put around it
    """
    env = spec.make(**(env_kwargs or {}))
    return env if wrapper is None else wrapper(env)
