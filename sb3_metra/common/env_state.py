"""The state of the training environments as plain values, so that an episode can continue where it was left."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_metra.common.wrapper_state import State, get_states, put, set_states

#: What each vectorised wrapper knows of the running episodes; running statistics are kept beside them.
_VEC_WRAPPERS: dict[type[VecEnvWrapper], tuple[str, ...]] = {
    VecNormalize: ("returns", "old_obs", "old_reward"),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
    VecFrameStack: (),
    VecTransposeImage: (),
    VecExtractDictObs: (),
}


def get_env_state(venv: VecEnv) -> State:
    """
    What the rest of a run needs of its environments.

    :param venv: the training environments
    :return: ``wrappers``, the state of each vectorised wrapper from the outermost on; ``base``, the state of what they
        wrap, ``None`` if that cannot give it: then new episodes have to begin
    """
    states, known = [], True
    while isinstance(venv, VecEnvWrapper):
        known = known and (type(venv) in _VEC_WRAPPERS or hasattr(venv, "get_state"))
        states.append(_get_vec_wrapper(venv))
        venv = venv.venv
    return {"wrappers": states, "base": _get_base(venv) if known else None}


def set_env_state(venv: VecEnv, state: State) -> None:
    """
    Let environments continue from a state.

    :param venv: environments made as those were that gave the state, and reset once
    :param state: what :func:`get_env_state` gave
    :raises ValueError: if it is the state of other environments
    """
    for one in state["wrappers"]:
        if not isinstance(venv, VecEnvWrapper) or type(venv).__name__ != one["class"]:
            raise ValueError(f"env must be wrapped in a {one['class']} as in the checkpoint, got {type(venv).__name__}")
        _set_vec_wrapper(venv, one)
        venv = venv.venv
    base = state["base"]
    if base is None:
        return
    if hasattr(venv, "set_state"):
        venv.set_state(base)
    elif isinstance(venv, DummyVecEnv) and "environments" in base:
        set_states(venv.envs, base)
    elif "collectors" in base:
        raise ValueError(f"collectors must be {len(base['collectors'])} as in the checkpoint, got None")
    else:
        raise ValueError(f"env must be able to continue from a state, got {type(venv).__name__}")


def _get_base(venv: Any) -> Any:
    if hasattr(venv, "get_state"):
        return venv.get_state()
    return get_states(venv.envs) if isinstance(venv, DummyVecEnv) else None


def _get_vec_wrapper(venv: Any) -> State:
    if hasattr(venv, "get_state") and type(venv) not in _VEC_WRAPPERS:
        return {"class": type(venv).__name__, "own": venv.get_state()}
    state = {name: getattr(venv, name) for name in _VEC_WRAPPERS.get(type(venv), ())}
    if isinstance(venv, VecNormalize):
        state["ret_rms"] = _get_statistics(venv.ret_rms)
        state["obs_rms"] = _get_statistics(getattr(venv, "obs_rms", None))
    if isinstance(venv, VecFrameStack):
        state["stacked_obs"] = venv.stacked_obs.stacked_obs
    return {"class": type(venv).__name__, **state}


def _set_vec_wrapper(venv: Any, state: State) -> None:
    if "own" in state:
        venv.set_state(state["own"])
        return
    for name in _VEC_WRAPPERS.get(type(venv), ()):
        put(venv, name, state[name])
    if isinstance(venv, VecNormalize):
        _set_statistics(venv.ret_rms, state["ret_rms"])
        _set_statistics(getattr(venv, "obs_rms", None), state["obs_rms"])
    if isinstance(venv, VecFrameStack):
        put(venv.stacked_obs, "stacked_obs", state["stacked_obs"])


def _get_statistics(statistics: Any) -> Any:
    if isinstance(statistics, dict):
        return {key: _get_statistics(one) for key, one in statistics.items()}
    if isinstance(statistics, RunningMeanStd):
        return {"mean": statistics.mean, "var": statistics.var, "count": statistics.count}
    return None


def _set_statistics(statistics: Any, state: Any) -> None:
    if isinstance(statistics, dict):
        for key, one in statistics.items():
            _set_statistics(one, state[key])
    elif isinstance(statistics, RunningMeanStd):
        for name in ("mean", "var", "count"):
            put(statistics, name, state[name])
