"""The whole state of an environment as plain values, so that an episode can be continued."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from stable_baselines3.common.monitor import Monitor

State = dict[str, Any]
"""NumPy arrays, and values that JSON keeps as they are, by name."""

_MONITOR = ("rewards", "needs_reset", "episode_returns", "episode_lengths", "episode_times", "total_steps")


def check_state(state: Any, like: State) -> State:
    """
    Refuse a value that cannot be the state of an environment.

    :param state: the given state
    :param like: the environment's current ``get_state``
    :return: the state
    :raises ValueError: if its names or the shapes of its arrays differ
    """
    if not isinstance(state, dict):
        raise ValueError(f"state must be a dict that get_state has made, got {type(state).__name__}.")
    if state.keys() != like.keys():
        raise ValueError(f"state must have the names {sorted(like)}, got {sorted(map(str, state))}.")
    for name, value in like.items():
        if isinstance(value, np.ndarray) and np.shape(state[name]) != value.shape:
            raise ValueError(f"state[{name!r}] must have shape {value.shape}, got {np.shape(state[name])}.")
    return state


def get_generator(env: gym.Env | gym.Space) -> State:
    """
    Read the state of the generator of an environment, or of a space.

    :param env: the environment or space, unwrapped
    :return: the state of the generator's bits, for JSON
    """
    return dict(env.np_random.bit_generator.state)


def set_generator(env: gym.Env | gym.Space, state: State) -> None:
    """
    Restore the state of the generator of an environment, or of a space.

    :param env: the environment or space, unwrapped
    :param state: what ``get_generator`` returned
    """
    env.np_random.bit_generator.state = state


def get_simulation(model: Any, data: Any) -> np.ndarray:
    """
    Read MuJoCo's full integration state, with the solver's first guess.

    :param model: MuJoCo's model
    :param data: its state
    :return: ``(n_state,)`` float64; a copy
    """
    import mujoco

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, spec))
    mujoco.mj_getState(model, data, state, spec)
    return state


def set_simulation(model: Any, data: Any, state: np.ndarray) -> None:
    """
    Restore MuJoCo's full integration state, and compute what follows from it.

    :param model: MuJoCo's model
    :param data: the state to write
    :param state: what ``get_simulation`` returned
    """
    import mujoco

    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)


def get_wrapped_state(env: gym.Env) -> State:
    """
    Read the state of an environment in Gymnasium's ``OrderEnforcing`` and ``TimeLimit`` and SB3's ``Monitor``.

    :param env: the environment, whose innermost one has ``get_state``
    :return: its state, with the steps taken and the rewards of the running episode
    :raises ValueError: if the environment cannot give its state
    """
    body: Any = env.unwrapped
    if not hasattr(body, "get_state"):
        raise ValueError(f"env must have get_state and set_state, and {type(body).__name__} has none.")
    state = {**body.get_state(), "action_space": get_generator(env.action_space)}
    for wrapper in _wrappers(env):
        if isinstance(wrapper, Monitor):
            for name in _MONITOR:
                value = getattr(wrapper, name)
                state[f"monitor/{name}"] = list(value) if isinstance(value, list) else value
        elif isinstance(wrapper, TimeLimit):
            state["elapsed_steps"] = wrapper._elapsed_steps
        elif isinstance(wrapper, OrderEnforcing):
            state["has_reset"] = wrapper._has_reset
    return state


def set_wrapped_state(env: gym.Env, state: State) -> None:
    """
    Restore the state of an environment and its wrappers.

    :param env: the environment, in the same wrappers as the one that gave the state
    :param state: what ``get_wrapped_state`` has given
    :raises ValueError: if it is the state of another environment
    """
    state = check_state(state, get_wrapped_state(env))
    body: Any = env.unwrapped
    body.set_state({name: state[name] for name in body.get_state()})
    set_generator(env.action_space, state["action_space"])
    for wrapper in _wrappers(env):
        if isinstance(wrapper, Monitor):
            for name in _MONITOR:
                value = state[f"monitor/{name}"]
                setattr(wrapper, name, list(value) if isinstance(value, list) else value)
        elif isinstance(wrapper, TimeLimit):
            wrapper._elapsed_steps = state["elapsed_steps"]
        elif isinstance(wrapper, OrderEnforcing):
            wrapper._has_reset = state["has_reset"]


def _wrappers(env: gym.Env) -> list[gym.Wrapper]:
    found = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found
