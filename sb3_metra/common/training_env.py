"""The training environments: memory that is not theirs to change, and what others do to them."""

from __future__ import annotations

import copy
import types
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeObservation
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_metra.common.spaces import check_observation, check_outcome, from_environment

_OUTCOME = ("observation", "reward", "terminated", "truncated", "info")


def copy_observation(observation: Any) -> Any:
    """
    An observation in memory of its own.

    :param observation: an array, or a dictionary of arrays
    """
    if isinstance(observation, np.ndarray):
        return observation.copy()
    if isinstance(observation, dict):
        return {key: copy_observation(value) for key, value in observation.items()}
    return copy.deepcopy(observation)


class OwnObservations(gym.Wrapper[Any, Any, Any, Any]):
    """
    Hands out copies of observations, for an environment that changes in ``reset`` what ``step`` returned, and refuses
    what the vectorised environment around it would broadcast or cast without a word.

    :param env: an environment
    :param index: its number among the training environments, to name in an error
    """

    state_names = ()

    def __init__(self, env: gym.Env, index: int = 0) -> None:
        super().__init__(env)
        self._source, self._space = from_environment(index), env.observation_space
        is_box = type(self._space) is gym.spaces.Box
        self._shape, self._dtype = (self._space.shape, self._space.dtype) if is_box else (None, None)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's ``reset``."""
        observation, info = self._unpack(self.env.reset(**kwargs), "reset", ("observation", "info"))
        check_observation(observation, self._space, self._source)
        return copy_observation(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As Gymnasium's ``step``."""
        returned = self._unpack(self.env.step(action), "step", _OUTCOME)
        observation, reward, terminated, truncated, info = returned
        x = observation
        if type(x) is not np.ndarray or x.dtype != self._dtype or x.shape != self._shape:  # most need no closer look
            check_observation(x, self._space, self._source)
        check_outcome(reward, terminated, truncated, info, self._source)
        # the vectorised environment copies all others before anything changes them
        own = copy_observation(observation) if terminated or truncated else observation
        return own, reward, terminated, truncated, info

    def _unpack(self, returned: Any, method: str, names: tuple[str, ...]) -> tuple[Any, ...]:
        if type(returned) is tuple and len(returned) == len(names):
            return returned
        if not isinstance(returned, (tuple, list)) or len(returned) != len(names):
            got = f"{len(returned)} things" if isinstance(returned, (tuple, list)) else f"a {type(returned).__name__}"
            raise ValueError(f"{method} must return ({', '.join(names)}), got {got} {self._source}")
        return tuple(returned)


def own_observations(env: Any) -> Any:
    """
    Wrap an environment, or those inside a ``DummyVecEnv``, in :class:`OwnObservations`.

    ``DummyVecEnv`` copies what it returns, but an episode's last observation only after it has reset the environment.

    :param env: an environment, or a vectorised one
    :return: an environment of the same kind; a vectorised one is the same object
    """
    if isinstance(env, gym.Env):
        return OwnObservations(env)
    base = env
    while isinstance(base, VecEnvWrapper):
        base = base.venv
    if isinstance(base, DummyVecEnv):
        base.envs = [x if isinstance(x, OwnObservations) else OwnObservations(x, i) for i, x in enumerate(base.envs)]
    return env


def check_answer(answer: tuple[Any, ...], space: gym.Space, index: int) -> None:
    """
    Refuse what a worker of SB3's ``SubprocVecEnv`` returns and what could be stacked only by a cast, or not at all.

    :param answer: (observation, info) of a reset, or (observation, reward, done, info, info of the reset)
    :param space: of observations
    :param index: the worker's
    :raises ValueError: in a sentence
    """
    source = from_environment(index)
    check_observation(answer[0], space, source)
    if len(answer) > 2:
        check_outcome(answer[1], answer[2], answer[2], answer[3], source)


def check_same_spaces(venv: VecEnv) -> None:
    """
    Refuse environments of several kinds: actions are chosen, and observations stored, as the first one wants them.

    :param venv: the training environments
    :raises ValueError: for the first that has another space
    """
    if not isinstance(base := venv.unwrapped, DummyVecEnv | SubprocVecEnv):
        return
    for name in ("observation_space", "action_space"):
        first, *others = base.get_attr(name)
        for index, space in enumerate(others, 1):
            if space != first:
                raise ValueError(
                    f"env must have the same {name} in each environment, got {first} and {space} with index {index}"
                )


def warn_of_lost_statistics(venv: VecEnv) -> None:
    """
    Warn of statistics that neither a saved model nor a checkpoint holds.

    :param venv: the training environments
    """
    base = venv.unwrapped
    if isinstance(base, DummyVecEnv | SubprocVecEnv) and any(base.env_is_wrapped(NormalizeObservation)):
        warnings.warn(
            "NormalizeObservation of Gymnasium keeps statistics of its own in each environment, and they are saved "
            "with no model: wrap the environments in VecNormalize of SB3, whose statistics go with the model",
            stacklevel=4,
        )


class EpisodeWatch:
    """
    Notices that somebody else reset or stepped the training environments: an evaluation on them, a callback, or a user
    by hand.

    The running episodes are over then, though nothing says so. The watch stands in for the methods of the vectorised
    environment, of everything that it wraps, and of the environments inside it if they live in this process. Copies of
    an environment, pickled or deep, are not watched.

    :param venv: the training environments
    """

    def __init__(self, venv: VecEnv) -> None:
        self.venv, self.seen = venv, False
        self._watched = [(env, name) for env in _layers(venv) for name in ("reset", _step_name(env))]
        for env, name in self._watched:
            setattr(env, name, _Watched(env, name, self))

    def take(self) -> bool:
        """Whether there was a reset or a step since the last call of this."""
        seen, self.seen = self.seen, False
        return seen

    def close(self) -> None:
        """Watch no longer."""
        for env, name in self._watched:
            if isinstance(watched := vars(env).get(name), _Watched) and watched.watch is self:
                setattr(env, name, watched.method)
        self._watched = []


class _Watched:
    """A method of an environment that leaves a note; copies of the environment get their class's own."""

    def __init__(self, env: Any, name: str, watch: EpisodeWatch) -> None:
        self.env, self.name, self.method, self.watch = env, name, getattr(env, name), watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.watch.seen = True
        return self.method(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return types.MethodType(getattr(type(self.env), self.name), copy.deepcopy(self.env, memo))

    def __reduce__(self) -> Any:
        return getattr, (self.env, self.name)


def is_watched(venv: Any) -> bool:
    """Whether a model has learnt in these environments, so that episodes may be under way."""
    return isinstance(vars(venv).get("reset"), _Watched)


def _step_name(env: Any) -> str:
    """A vectorised environment's steps begin with this method; what it wraps is stepped by it, too."""
    return "step_async" if isinstance(env, VecEnv) else "step"


def _layers(venv: VecEnv) -> list[Any]:
    """A vectorised environment, all that it wraps, and the innermost environments inside it."""
    layers: list[Any] = [venv]
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
        layers.append(venv)
    inner = (env.unwrapped for env in getattr(venv, "envs", []) if isinstance(env, gym.Env))
    return layers + list({id(env): env for env in inner}.values())
