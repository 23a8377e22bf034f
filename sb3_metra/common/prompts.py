"""Prompts: what a wish, said as a reward or by a trajectory, asks the representation to do."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_metra.common.arguments import shorten
from sb3_metra.common.arrays import map_arrays

_RCOND = 1e-3  # directions in which features move less than this share of the most tell nothing


def check_one(**prompts: Any) -> None:
    """
    Refuse several prompts, or none.

    :param prompts: by name; ``None``: not given
    :raises ValueError: unless there is one
    """
    given = [name for name, prompt in prompts.items() if prompt is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise ValueError(f"the prompt must be one of {', '.join(prompts)}, got {got}")


def read_paths(trajectory: Any, space: spaces.Space) -> tuple[list[Any], bool]:
    """
    Trajectories, each as one batch of observations.

    :param trajectory: successive observations, or a list of such trajectories
    :param space: of one observation
    :return: batches of T + 1 observations each, and whether several were given
    :raises ValueError: if it is neither
    """
    rank = _rank(trajectory, space)
    if rank not in (1, 2):
        raise ValueError(
            f"trajectory must hold successive observations of {space}, or be a list of such trajectories, "
            f"got {shorten(trajectory)}"
        )
    if rank == 2 and isinstance(trajectory, dict):
        n = len(next(iter(trajectory.values())))
        trajectory = [{key: x[i] for key, x in trajectory.items()} for i in range(n)]
    paths = [_batch("trajectory", x) for x in (trajectory if rank == 2 else [trajectory])]
    if (length := min(map(_length, paths), default=0)) < 2:
        raise ValueError(f"trajectory must hold at least two observations, got {length}")
    return paths, rank == 2


def read_transitions(observations: Any, space: spaces.Space, next_observations: Any = None) -> tuple[Any, Any]:
    """
    Observations before and after each transition, each as a batch.

    :param observations: before, or successive ones
    :param space: of one observation
    :param next_observations: after; ``None``: ``observations`` are successive
    :raises ValueError: if there are none, they are no batch, or there are not as many after as before
    """
    if observations is None:
        raise ValueError("observations must be given with reward, got None: those of the transitions that it is for")
    before = _read_batch("observations", observations, space, at_least=1 if next_observations is not None else 2)
    if next_observations is None:
        return map_arrays(lambda x: x[:-1], before), map_arrays(lambda x: x[1:], before)
    after = _read_batch("next_observations", next_observations, space)
    if _length(after) != _length(before):
        raise ValueError(
            f"next_observations must hold one for each of the {_length(before)} observations, got {_length(after)}"
        )
    return before, after


def read_rewards(reward: Any, observations: Any, next_observations: Any, n: int) -> tuple[np.ndarray, bool]:
    """
    Rewards of transitions.

    :param reward: numbers, (n,) or (k, n); a function of both batches that gives (n,); or a list of such functions
    :param observations: before, n of them
    :param next_observations: after
    :param n: number of transitions
    :return: (k, n), float64, and whether several were given
    :raises ValueError: if they are as many as something else, not finite, or all the same
    """
    several = isinstance(reward, (list, tuple)) and any(callable(x) for x in reward)
    if callable(reward):
        reward = reward(observations, next_observations)
    elif several:
        reward = [x(observations, next_observations) if callable(x) else x for x in reward]
    try:
        rewards = np.asarray(reward, dtype=np.float64)
    except (TypeError, ValueError):
        rewards = np.empty(())
    if rewards.ndim not in (1, 2) or rewards.shape[-1] != n or not rewards.size:
        raise ValueError(
            f"reward must be one number for each of the {n} transitions, of shape ({n},) or (k, {n}), or a function "
            f"that gives them, got {rewards.shape if rewards.ndim else shorten(reward)}"
        )
    if not np.isfinite(rewards).all():
        raise ValueError(f"reward must be finite, got {rewards[~np.isfinite(rewards)][0]} among its numbers")
    if (np.ptp(rewards, axis=-1) == 0).any():
        raise ValueError(f"reward must differ between transitions, got {rewards.flat[0]:g} for all {n} of them")
    return np.atleast_2d(rewards), rewards.ndim == 2


def reward_direction(features: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """
    The weights w of the linear regression of a reward on features: r = w . f + b, by least squares.

    :param features: f, (n, dim)
    :param rewards: r, (k, n)
    :return: (k, dim); zero along directions in which the features do not move
    """
    centred = features.astype(np.float64) - features.mean(axis=0)
    weights, *_ = np.linalg.lstsq(centred, (rewards - rewards.mean(axis=1, keepdims=True)).T, rcond=_RCOND)
    return weights.T


def require_direction(name: str, directions: np.ndarray) -> np.ndarray:
    """
    Refuse a prompt that asks for no direction, to which any skill would be an answer.

    :param name: of the prompt
    :param directions: among features, (k, dim)
    :raises ValueError: if one is zero
    """
    if not directions.any(axis=1).all():
        raise ValueError(f"{name} must lead somewhere in phi, got observations between which phi does not move")
    return directions


def _read_batch(name: str, observations: Any, space: spaces.Space, at_least: int = 1) -> Any:
    """A batch of observations, or one sentence that says what came instead."""
    if (rank := _rank(observations, space)) != 1:
        what = "a single one" if rank == 0 else shorten(observations)
        raise ValueError(f"{name} must be a batch of observations of {space}, got {what}")
    if (length := _length(observations)) < at_least:
        raise ValueError(f"{name} must have a length of at least {at_least} for a reward, got {length}")
    return _batch(name, observations)


def _batch(name: str, observations: Any) -> Any:
    """Observations, perhaps a list of them, as an array or a dictionary of arrays."""
    try:
        if isinstance(observations, (list, tuple)) and observations and isinstance(observations[0], dict):
            return {key: np.stack([x[key] for x in observations]) for key in observations[0]}
        return observations if isinstance(observations, dict) else np.asarray(observations)
    except (ValueError, KeyError) as error:  # NumPy's, and of a key that one of them lacks
        raise ValueError(f"{name} must hold observations of one shape, got {shorten(observations)}") from error


def _length(observations: Any) -> int:
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def _rank(value: Any, space: spaces.Space) -> int:
    """How many axes there are before those of an observation."""
    if isinstance(value, (list, tuple)) and len(value):
        return 1 + _rank(value[0], space)
    if isinstance(value, dict) and isinstance(space, spaces.Dict) and value:
        key = next(iter(value))
        return _rank(value[key], space[key]) if key in space.spaces else -1
    return np.ndim(value) - len(space.shape or ())
