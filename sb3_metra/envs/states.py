"""The state of an environment as plain values, so that an episode can be continued."""

from typing import Any

import gymnasium as gym
import numpy as np

State = dict[str, Any]
"""NumPy arrays, and values that JSON keeps as they are, by name."""


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
