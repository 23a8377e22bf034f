"""Spaces that can be learnt in, and observations that fit them."""

from __future__ import annotations

import math
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first, maybe_transpose
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, is_vecenv_wrapped, unwrap_vec_normalize
from torch import nn

from sb3_metra.common.arguments import shorten
from sb3_metra.common.checks import MAX_MAGNITUDE, MAX_OBSERVATION, as_flags, check_magnitude
from sb3_metra.common.counted_actions import COUNTED, MAX_ACTIONS, reason_against


class UnsupportedSpaceError(ValueError, NotImplementedError, AssertionError):
    """A space that cannot be learnt in. It derives from what SB3 raises in such cases."""


# At construction


def check_env(env: Any) -> None:
    """
    Refuse what is no environment, or has spaces that cannot be learnt in.

    :param env: what was given as the environment
    :raises ValueError: in a sentence
    """
    if isinstance(env, gym.vector.VectorEnv):
        raise ValueError(
            f"env must be an environment of Gymnasium or a VecEnv of SB3, got {type(env).__name__}, a vectorised "
            "environment of Gymnasium: make_vec_env of stable_baselines3.common.env_util makes one of SB3"
        )
    old_gym = getattr(sys.modules.get("gym"), "Env", gym.Env)
    if not isinstance(env, (gym.Env, VecEnv, old_gym)):
        raise ValueError(f"env must be an environment, a VecEnv of SB3 or a registered name, got {env!r}")
    for name in ("observation_space", "action_space"):
        if isinstance(env, (gym.Env, VecEnv)) and not isinstance(space := getattr(env, name, None), spaces.Space):
            raise ValueError(f"env must have a space of Gymnasium as {name}, got {space!r}")
    if isinstance(env, (gym.Env, VecEnv)):
        check_observation_space(env.observation_space)
        check_action_space(env.action_space)
        _check_channels(env)
        _check_normalized_last(env)


def _check_normalized_last(env: gym.Env | VecEnv) -> None:
    """SB3 stores observations as they are inside ``VecNormalize``, so that nothing around it may change them."""
    inner = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    if inner is not None and inner.observation_space != env.observation_space:
        raise UnsupportedSpaceError(
            f"env must have VecNormalize around the wrappers that change its observations, got {type(env).__name__} "
            f"around it, which makes {env.observation_space} of {inner.observation_space}"
        )


def _check_channels(env: gym.Env | VecEnv) -> None:
    """SB3 moves channels to the front, but of all images or of none, and outside what wraps them."""
    images = {key: x for key, x in _parts(env.observation_space).items() if is_image_space(x)}
    first = {key: is_image_space_channels_first(x) for key, x in images.items()}  # type: ignore[arg-type]
    if len(set(first.values())) > 1:
        raise UnsupportedSpaceError(
            f"observation_space must hold images that all have their channels first, or all last, got {images}"
        )
    if all(first.values()) or not isinstance(env, VecEnv) or is_vecenv_wrapped(env, VecTransposeImage):
        return
    if unwrap_vec_normalize(env) is not None:
        raise UnsupportedSpaceError(
            "env must have its images' channels first inside VecNormalize, got channels last: write "
            "VecNormalize(VecTransposeImage(venv), ...)"
        )


def check_action_space(space: spaces.Space) -> None:
    """
    Refuse actions that cannot be learnt.

    :param space: actions
    :raises UnsupportedSpaceError: unless it is a Box of floats with finite bounds, or has few enough discrete actions
    """
    if isinstance(space, COUNTED):
        if (reason := reason_against(space)) is not None:
            raise UnsupportedSpaceError(
                f"action_space must have from 2 to {MAX_ACTIONS} actions, got {space}: {reason}"
            )
        return
    reason = None
    if not isinstance(space, spaces.Box):
        reason = f"of other spaces only {', '.join(kind.__name__ for kind in COUNTED)} are supported"
    elif space.dtype.kind != "f":
        reason = "integers are a MultiDiscrete, or let the environment take floats, and round them itself"
    elif space.shape == () or 0 in space.shape:
        reason = "an action must have at least one component: let its shape be (1,)"
    else:
        low, high = (np.asarray(x, dtype=np.float64) for x in (space.low, space.high))
        if not (np.isfinite(low) & np.isfinite(high) & (high - low <= MAX_MAGNITUDE)).all():
            reason = "it must have a finite lower and upper bound: leave out ClipAction, or wrap in TransformAction"
        elif not (low < high).all():
            reason = "each lower bound must be below its upper bound: leave out actions that cannot move"
    if reason is not None:
        raise UnsupportedSpaceError(f"action_space must be a Box of floats with finite bounds, got {space}: {reason}")


def check_observation_space(space: spaces.Space) -> None:
    """
    Refuse observations that cannot be learnt from.

    :param space: observations
    :raises UnsupportedSpaceError: in a sentence that says what to do
    """
    if isinstance(space, spaces.Dict) and not space.spaces:
        _refuse("observation_space", space, "it must hold at least one observation")
    for key, part in _parts(space).items():
        name = f"{key!r} of observation_space" if isinstance(space, spaces.Dict) else "observation_space"
        if not isinstance(key, str) or "." in key or hasattr(nn.ModuleDict, key):
            _refuse(name, space, f"{key!r} cannot name a module of PyTorch: keys must be strings without dots")
        if isinstance(part, (spaces.Dict, spaces.Tuple)):
            nested = "inside one are not supported" if part is not space else "are not supported, but a Dict is"
            _refuse(name, part, f"a Tuple, or spaces nested {nested}: wrap the environment in FlattenObservation")
        if (reason := _reason_against(part)) is not None:
            _refuse(name, part, reason)


def _reason_against(space: spaces.Space) -> str | None:
    """Say why a space that holds no others cannot be learnt from, or return ``None``."""
    if isinstance(space, spaces.Box):
        return "it has no components" if 0 in space.shape else None
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        return "it must have one axis: wrap the environment in FlattenObservation"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return None
    return (
        "only Box, Discrete, MultiDiscrete, MultiBinary, and a Dict of them are supported: leave it out with a wrapper "
        "of the environment"
    )


def _refuse(name: str, space: spaces.Space, reason: str) -> None:
    raise UnsupportedSpaceError(f"{name} must be a space that networks can read, got {space}: {reason}")


# Observations


def from_environment(index: int) -> str:
    """
    Which environment something came from, to end an error with.

    :param index: its number in the vectorised environment
    """
    return f"from the environment with index {index}"


def check_finite(observations: Any, source: str = "") -> None:
    """
    Refuse observations that are not finite, or too large to be learnt from.

    :param observations: an array, or a dictionary of arrays
    :param source: where they come from, to end the error with
    :raises ValueError: for NaN and infinity, named by their key, and for what ``env.reset()`` returns
    """
    if isinstance(observations, tuple):
        raise ValueError(
            "observation must be an array or a dict, got a tuple: `env.reset()` returns (obs, info), which is mixing "
            "Gym API and the API of SB3's VecEnv"
        )
    for key, x in observations.items() if isinstance(observations, dict) else [("observation", observations)]:
        if not isinstance(x, np.ndarray):
            raise ValueError(f"{key} must be a NumPy array {source}, got a {type(x).__name__}")
        _check_magnitude(x, key, source)


def check_observation(observation: Any, space: spaces.Space, source: str) -> None:
    """
    Refuse an observation that would fit its space only by broadcasting, or by a cast that changes it.

    One of its space's own type may hold NaN; it is refused where it is acted on, and where it is stored.

    :param observation: one observation
    :param space: its space
    :param source: where it comes from, to end the error with
    :raises ValueError: in a sentence
    """
    if not isinstance(space, spaces.Dict):
        _check_one(observation, space, "observation", source)
        return
    if not isinstance(observation, dict) or not observation.keys() >= space.keys():
        _refuse_keys(observation, space, source)
    for key, part in space.spaces.items():
        _check_one(observation[key], part, key, source)


def _check_one(x: Any, space: spaces.Space, name: str, source: str) -> None:
    if type(x) is np.ndarray and x.dtype == space.dtype and x.shape == space.shape and type(space) is spaces.Box:
        return
    x = _as_array(x, name, source)
    if x.shape != space.shape and not (space.shape == () and x.size == 1):
        raise ValueError(f"{name} must have shape {space.shape}, got {x.shape} {source}".rstrip())
    _check_values(x, space, name, source)
    _check_magnitude(x, name, source)


def check_step(observations: Any, rewards: Any, dones: Any, infos: Any, env: VecEnv) -> np.ndarray:
    """
    Refuse what environments return and what could be stored only by a cast or by broadcasting.

    :param observations: (n_envs, \\*obs_shape), or a dictionary of such
    :param rewards: (n_envs,)
    :param dones: (n_envs,)
    :param infos: n_envs dictionaries; that of an episode which ends holds its last observation
    :param env: the vectorised environment
    :return: ``dones`` as booleans
    :raises ValueError: in a sentence that names the environment
    """
    space, n = env.observation_space, env.num_envs
    if type(space) is spaces.Dict and not (isinstance(observations, dict) and observations.keys() >= space.keys()):
        _refuse_keys(observations, space, "from the environments")
    for key, part in space.spaces.items() if type(space) is spaces.Dict else (("observation", space),):
        x = observations[key] if isinstance(observations, dict) else observations
        if not isinstance(x, np.ndarray):
            raise ValueError(f"{key} must be a NumPy array from the environments, got a {type(x).__name__}")
        if (got := x.shape) != (n, *part.shape):  # type: ignore[misc]
            raise ValueError(f"{key} must have shape {(n, *part.shape)} from the environments, got {got}")  # type: ignore[misc]
    rewards = np.asarray(rewards)
    # one product is faster than asking each number, and false for NaN
    if rewards.dtype.kind not in "biuf" or not (np.vdot(rewards, rewards) < np.inf or np.isfinite(rewards).all()):
        index = next(i for i, x in enumerate(rewards.tolist()) if not _is_number(x))
        raise ValueError(f"reward must be a finite number, got {rewards.tolist()[index]!r} {from_environment(index)}")
    flags = as_flags(dones, "terminated and truncated", (n,))
    _check_infos(infos, flags, space)
    return flags


def _check_infos(infos: Any, dones: np.ndarray, space: spaces.Space) -> None:
    n = len(dones)
    if not isinstance(infos, (list, tuple)) or len(infos) != n or not all(isinstance(info, dict) for info in infos):
        raise ValueError(f"infos must be {n} dictionaries, one of each environment, got {shorten(infos)}")
    for index in np.flatnonzero(dones).tolist():
        if (last := infos[index].get("terminal_observation")) is None:
            raise ValueError(
                'info of an episode that ends must hold its last observation as "terminal_observation", as the VecEnvs '
                f"of SB3 do, got none {from_environment(index)}"
            )
        check_observation(last, space, from_environment(index))


def check_outcome(reward: Any, terminated: Any, truncated: Any, info: Any, source: str) -> None:
    """
    Refuse what one environment returns beside its observation, before it is cast.

    :param reward: a number
    :param terminated: whether the episode ended by itself
    :param truncated: whether it was cut off
    :param info: a dictionary
    :param source: which environment, to end the error with
    :raises ValueError: in a sentence
    """
    if (
        type(reward) is float
        and math.isfinite(reward)
        and type(terminated) is type(truncated) is bool
        and type(info) is dict
    ):
        return
    if not (isinstance(reward, (float, np.floating)) and math.isfinite(reward)) and not _is_number(reward):
        raise ValueError(f"reward must be a finite number, got {reward!r} {source}")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if type(flag) is not bool and not (isinstance(flag, (np.bool_, int, np.integer)) and flag in (0, 1)):
            raise ValueError(f"{name} must be True or False, got {flag!r} {source}")
    if not isinstance(info, dict):
        raise ValueError(f"info must be a dict, got {info!r} {source}")


def read_observations(observations: Any, space: spaces.Space) -> tuple[Any, int, bool]:
    """
    Observations from outside as arrays.

    :param observations: one observation or a batch of n: arrays, lists or tensors, in a dictionary if the space is one
    :param space: of one observation
    :return: an array, (n, \\*obs_shape), or a dictionary of arrays; n; and whether it was a batch
    :raises ValueError: if they have another shape, other keys, or are not finite
    """
    if not isinstance(space, spaces.Dict):
        array, batched = _read(observations, space, "observation")
        return array, len(array), batched
    if not isinstance(observations, dict) or observations.keys() != space.keys():
        _refuse_keys(observations, space)
    read = {key: _read(observations[key], part, key) for key, part in space.items()}
    sizes = {key: len(array) for key, (array, _) in read.items()}
    if len({(len(array), batched) for array, batched in read.values()}) > 1:
        raise ValueError(f"observation must hold one of each key, or as many of each, got {sizes}")
    (first, batched), *_ = read.values()
    return {key: array for key, (array, _) in read.items()}, len(first), batched


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return space.spaces if isinstance(space, spaces.Dict) else {"observation": space}


def _refuse_keys(observation: Any, space: spaces.Dict, source: str = "") -> None:
    if isinstance(observation, tuple):
        check_finite(observation)
    got = list(observation) if isinstance(observation, dict) else f"a {type(observation).__name__}"
    raise ValueError(f"observation must be a dict of {list(space)}, got {got} {source}".rstrip())


def _as_array(x: Any, name: str, source: str = "") -> np.ndarray:
    if type(x) is np.ndarray:
        return x
    if isinstance(x, tuple) and any(isinstance(part, dict) for part in x):
        check_finite(x)
    if isinstance(x, dict):
        raise ValueError(f"{name} must be an array of numbers, got a dict of {list(x)} {source}".rstrip())
    try:
        return np.asarray(x.detach().cpu() if isinstance(x, th.Tensor) else x)
    except ValueError:
        raise ValueError(f"{name} must have one shape, got parts of several shapes {source}".rstrip()) from None


def _read(x: Any, space: spaces.Space, name: str) -> tuple[np.ndarray, bool]:
    """An array of observations, (n, \\*obs_shape), and whether it came as a batch."""
    array, shape = _as_array(x, name), space.shape
    if array.ndim >= 3:
        array = maybe_transpose(array, space)
    if array.shape == shape:
        array, batched = array[None], False
    elif array.shape[1:] == shape and array.ndim > 0:
        batched = True
    else:
        batch = ", ".join(map(str, ("n", *shape)))  # type: ignore[misc]
        raise ValueError(f"{name} must have shape {shape}, or ({batch}) for n of them, got {array.shape}")
    _check_values(array, space, name)
    _check_magnitude(array, name, "")
    return array.astype(space.dtype) if _holds_integers(space) else array, batched


def _check_values(array: np.ndarray, space: spaces.Space, name: str, source: str = "") -> None:
    dtype = space.dtype
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {array.dtype} {source}".rstrip())
    if _holds_integers(space) and array.dtype != dtype and (array.astype(dtype) != array).any():
        raise ValueError(f"{name} must hold integers that fit into {dtype}, got {_sample(array)} {source}".rstrip())
    n = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
    start = getattr(space, "start", 0)
    if n is not None and not ((array >= start) & (array < start + n)).all():
        raise ValueError(f"{name} must be one of {space}, got {_sample(array)} {source}".rstrip())


def _holds_integers(space: spaces.Space) -> bool:
    return space.dtype is not None and space.dtype.kind in "iu"


def _check_magnitude(x: Any, name: str, source: str) -> None:
    # one product is faster than asking each number, and false for NaN
    if x.dtype.kind == "f" and not float(np.vdot(x, x)) < MAX_OBSERVATION:
        check_magnitude(x, name, source, MAX_OBSERVATION)


def _is_number(x: Any) -> bool:
    """Whether this is one finite number."""
    array = np.asarray(x)
    return array.dtype.kind in "biuf" and array.ndim == 0 and bool(np.isfinite(array))


def _sample(array: np.ndarray) -> Any:
    return array.reshape(-1)[:8].tolist() if array.ndim else array.item()
