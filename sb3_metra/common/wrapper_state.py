"""The state of environments and of the wrappers around each, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from stable_baselines3.common.monitor import Monitor

State = dict[str, Any]
"""NumPy arrays and values that JSON holds, by name."""

#: What each wrapper knows of the running episode.
_WRAPPERS: dict[type[gym.Wrapper], tuple[str, ...]] = {
    Monitor: ("rewards", "needs_reset", "episode_returns", "episode_lengths", "episode_times", "total_steps"),
    wrappers.TimeLimit: ("_elapsed_steps",),
    wrappers.OrderEnforcing: ("_has_reset",),
    wrappers.PassiveEnvChecker: (),
    wrappers.ClipAction: (),
    wrappers.RescaleAction: (),
    wrappers.FlattenObservation: (),
    wrappers.DtypeObservation: (),
}


def get_states(envs: Sequence[gym.Env]) -> State | None:
    """
    The state of each environment and of its wrappers.

    A wrapper of Gymnasium, SB3 or rl_zoo3 is known. Others, and the innermost environment, give theirs with
    ``get_state``; a wrapper without a state says so with the class attribute ``state_names = ()``.

    :param envs: environments
    :return: under ``environments``, the list of states of each one; ``None`` if something cannot give its state
    """
    states = [_get_state(env) for env in envs]
    return None if None in states else {"environments": states}


def set_states(envs: Sequence[gym.Env], state: State) -> None:
    """
    Let environments continue from a state.

    :param envs: environments, wrapped as those were that gave the state
    :param state: what :func:`get_states` gave
    :raises ValueError: if it is the state of other environments, or of another number of them
    """
    states = state["environments"]
    if len(states) != len(envs):
        raise ValueError(f"env must have {len(states)} environments, got {len(envs)}")
    for env, own in zip(envs, states, strict=True):
        _set_state(env, own)


def _get_state(env: gym.Env) -> list[State] | None:
    """From the outermost wrapper on, what has a state; last, the generator of the action space."""
    states: list[State] = []
    while True:
        names = _find_names(type(env))
        if names is not None:
            values = {name: _copy(getattr(env, name)) for name in names}
        elif "get_state" in vars(type(env)) or (not isinstance(env, gym.Wrapper) and hasattr(env, "get_state")):
            values = {"own": env.get_state()}  # type: ignore[attr-defined]
        else:
            return None
        if values:
            states.append({"class": type(env).__name__, **values})
        if not isinstance(env, gym.Wrapper):
            return [*states, {"action_space": env.action_space.np_random.bit_generator.state}]
        env = env.env


def _set_state(env: Any, states: list[State]) -> None:
    *chain, spaces = states
    chain = [state for state in chain if len(state) > 1]  # wrappers without a state, in older files
    while True:
        names = _find_names(type(env))
        if names != ():
            state = chain.pop(0) if chain else {"class": "nothing more"}
            if type(env).__name__ != state["class"]:
                raise ValueError(f"env must be a {state['class']} as in the checkpoint, got {type(env).__name__}")
            if "own" in state:
                env.set_state(state["own"])
            else:
                for name in names or ():
                    put(env, name, _copy(state[name]))
        if not isinstance(env, gym.Wrapper):
            break
        env = env.env
    env.action_space.np_random.bit_generator.state = spaces["action_space"]


def put(owner: Any, name: str, value: Any) -> None:
    """
    Set an attribute to a value from a file.

    :param owner: a wrapper, or what else remembers episodes
    :param name: of an attribute that it has
    :param value: its new value
    :raises ValueError: unless that is of the kind of the old one
    """
    if not _alike(getattr(owner, name), value):
        raise ValueError(f"{name} of {type(owner).__name__} must be like {getattr(owner, name)!r}, got {value!r:.100}")
    setattr(owner, name, value)


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, dict):
        return isinstance(new, dict) and old.keys() == new.keys() and all(_alike(x, new[key]) for key, x in old.items())
    if old is None:  # before the first reset
        return new is None or isinstance(new, list) or np.asarray(new).dtype.kind in "biuf"
    return isinstance(new, list) if isinstance(old, list) else np.asarray(new).dtype.kind in "biuf"


def _find_names(kind: Any) -> tuple[str, ...] | None:
    """What a class of wrapper knows; rl_zoo3's own time limit is Gymnasium's."""
    known = kind.__mro__ if kind.__module__.startswith("rl_zoo3.") else (kind,)
    return next((_WRAPPERS[x] for x in known if x in _WRAPPERS), vars(kind).get("state_names"))


def _copy(value: Any) -> Any:
    """A list that what gave it, or takes it, does not go on writing to."""
    return list(value) if isinstance(value, list) else value
