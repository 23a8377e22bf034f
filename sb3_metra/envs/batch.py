"""MuJoCo's bodies in a batch: many simulations in this process, on a pool of threads, as one vectorised environment."""

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_metra.common.wrapper_state import State, get_states, set_states
from sb3_metra.envs import find_spec
from sb3_metra.envs.checks import check_action, check_integer

_BODIES = {
    "sb3_metra.envs.locomotion:AntEnv": "AntBodies",
    "sb3_metra.envs.locomotion:HalfCheetahEnv": "HalfCheetahBodies",
    "sb3_metra.envs.suite:QuadrupedEnv": "SuiteBodies",
    "sb3_metra.envs.suite:HumanoidEnv": "SuiteBodies",
}
_said: set[str] = set()


def make_batch_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    n_threads: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """
    Build environments that MuJoCo simulates in a batch, on threads of this process.

    Their results equal those of SB3's ``make_vec_env`` to the bit, for any number of threads. If an environment cannot
    be batched, that function builds it, with one warning that says why.

    :param env_id: a registered environment, also as ``module:name``
    :param n_envs: number of environments, at least 1
    :param seed: the environments are seeded with ``seed``, ``seed + 1``, ...
    :param n_threads: number of threads; ``None``: one for each core, at most one for each environment
    :param env_kwargs: passed to ``gymnasium.make``
    :return: the vectorised environment, whose episodes are monitored as in SB3's ``make_vec_env``
    :raises ValueError: if a number is too small, or an environment refuses its arguments
    """
    check_integer("n_envs", n_envs, 1)
    for name, value, smallest in (("seed", seed, 0), ("n_threads", n_threads, 1)):
        if value is not None:
            check_integer(name, value, smallest)
    if not isinstance(env_kwargs, dict | None):
        raise ValueError(f"env_kwargs must be a dict of an environment's arguments, or None, got {env_kwargs!r}.")
    cores = count_cores()
    if n_threads is not None and n_threads > cores:
        warnings.warn(f"n_threads should be at most {cores}, the cores of this process, got {n_threads}.", stacklevel=2)
    if (reason := why_not_batched(env_id, env_kwargs)) is not None:
        if reason not in _said:
            _said.add(reason)
            warnings.warn(f"{env_id} is stepped one environment after the other: {reason}.", stacklevel=2)
        return make_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)
    return make_vec_env(
        env_id,
        n_envs,
        seed=seed,
        env_kwargs=env_kwargs,
        vec_env_cls=BatchVecEnv,
        vec_env_kwargs={"n_threads": n_threads},
    )


def make_fast_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    n_threads: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """
    Build environments in a batch if MuJoCo can simulate them together, else with SB3's ``make_vec_env``.

    :param env_id: a registered environment, also as ``module:name``
    :param n_envs: number of environments, at least 1
    :param seed: the environments are seeded with ``seed``, ``seed + 1``, ...
    :param n_threads: number of threads of a batch; ``None``: one for each core, at most one for each environment
    :param env_kwargs: passed to ``gymnasium.make``
    :return: the vectorised environment, whose episodes are monitored
    """
    if can_batch(env_id, env_kwargs):
        return make_batch_vec_env(env_id, n_envs, seed, n_threads, env_kwargs)
    return make_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)


def can_batch(env_id: Any, env_kwargs: dict[str, Any] | None = None) -> bool:
    """
    Return whether ``make_batch_vec_env`` builds a batch of an environment; no simulator's model is loaded.

    :param env_id: the environment's name, or anything that SB3's ``make_vec_env`` takes
    :param env_kwargs: passed to ``gymnasium.make``
    :return: whether it does
    """
    return why_not_batched(env_id, env_kwargs) is None


def why_not_batched(env_id: Any, env_kwargs: dict[str, Any] | None = None) -> str | None:
    """
    Say why an environment cannot be simulated in a batch.

    :param env_id: the environment's name, or anything that SB3's ``make_vec_env`` takes
    :param env_kwargs: passed to ``gymnasium.make``
    :return: the reason, part of a sentence; ``None`` if it can
    """
    if not isinstance(env_id, str):
        return "a batch needs the name of a registered environment"
    spec = find_spec(env_id)
    if spec.entry_point not in _BODIES or spec.additional_wrappers:
        names = [entry_point.partition(":")[2].removesuffix("Env") for entry_point in _BODIES]
        return f"a batch holds {', '.join(names)} without wrappers"
    render_mode = (env_kwargs or {}).get("render_mode", spec.kwargs.get("render_mode"))
    if render_mode not in (None, "rgb_array"):
        return f'a batch needs render_mode=None or "rgb_array", got {render_mode!r}'
    try:
        importlib.import_module("mujoco.batch")
    except ImportError as error:
        return f"a batch needs the module mujoco.batch of MuJoCo 3.17 ({error})"
    return None


def count_cores() -> int:
    """
    Count the cores that this process may use.

    :return: their number
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spare_threads(overlap: bool) -> int | None:
    """
    Choose the threads of a batch that an algorithm is trained in.

    :param overlap: whether the algorithm learns beside the environments (its argument ``overlap``)
    :return: ``n_threads``: all cores but the learner's; without overlap ``None``, the default
    """
    return max(1, count_cores() - 1) if overlap else None


class BatchVecEnv(DummyVecEnv):
    """
    Environments whose simulations MuJoCo steps together.

    Each environment, with its wrappers, resets itself and counts its steps as in a ``DummyVecEnv``; only the physics is
    batched. ``get_attr``, ``env_method``, ``render`` and ``get_state`` first copy the simulation into the environment.
    Options and models are those that the environments were made with.

    :param env_fns: functions that make the environments, all of one body and with the same options
    :param n_threads: number of threads; ``None``: one for each core, at most one for each environment
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], n_threads: int | None = None):
        super().__init__(env_fns)
        from sb3_metra.envs import batch_bodies  # here, because MuJoCo is loaded only when an environment is made

        self._stubs = [_put_stub_under(env) for env in self.envs]
        spec = self.envs[0].spec
        bodies = getattr(batch_bodies, _BODIES[str(spec and spec.entry_point)])
        n_threads = n_threads or min(self.num_envs, count_cores())
        self._bodies = bodies([env.unwrapped for env in self.envs], n_threads)

    @property
    def n_threads(self) -> int:
        """Number of threads."""
        return int(self._bodies.batch.nthread)

    def step_wait(self) -> VecEnvStepReturn:
        """As ``DummyVecEnv``'s, with all bodies simulated at once."""
        actions = np.ascontiguousarray(self.actions)
        check_action(actions, (self.num_envs, *(self.action_space.shape or ())))
        observations, rewards, terminated, infos = self._bodies.step(actions)
        dones = np.zeros(self.num_envs, dtype=bool)
        truncated = [False] * self.num_envs  # TimeLimit's to decide
        steps = zip(observations, rewards.tolist(), terminated, truncated, infos, strict=True)
        for index, (env, stub, step) in enumerate(zip(self.envs, self._stubs, steps, strict=True)):
            stub.outcome = step
            last, _, is_terminated, is_truncated, info = env.step(actions[index])
            info["TimeLimit.truncated"] = is_truncated and not is_terminated
            if is_terminated or is_truncated:
                dones[index] = True
                info["terminal_observation"] = last.copy()
                observations[index], self.reset_infos[index] = env.reset()
                self._bodies.load(index)
        return observations, rewards.astype(np.float32), dones, infos

    def reset(self) -> VecEnvObs:
        observations = super().reset()
        self._load()
        return observations

    def get_images(self) -> Any:
        self._store()
        return super().get_images()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        self._store(indices)
        return super().get_attr(attr_name, indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        self._store(indices)
        returned = super().env_method(method_name, *method_args, indices=indices, **kwargs)
        self._load(indices)  # the method may have moved the body
        return returned

    def get_state(self) -> State | None:
        """
        Give all that the rest of the episodes depends on: simulations, generators, counters, sums.

        :return: what a ``DummyVecEnv`` of the same environments has as its state, so that either goes on from it;
            ``None`` if one of their wrappers cannot give its own
        """
        self._store()
        return get_states(self.envs)

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of other environments, or of another number of them
        """
        set_states(self.envs, state)
        self._load()

    def _store(self, indices: VecEnvIndices = None) -> None:
        if hasattr(self, "_bodies"):  # SB3's constructor asks the environments before they are in the batch
            for index in self._get_indices(indices):
                self._bodies.store(index)

    def _load(self, indices: VecEnvIndices = None) -> None:
        for index in self._get_indices(indices):
            self._bodies.load(index)


class _Stub(gym.Wrapper):
    """Replaces the innermost environment; its step returns the batch's result."""

    state_names = ()
    outcome: tuple[Any, float, bool, bool, dict[str, Any]] | None = None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        outcome, self.outcome = self.outcome, None
        if outcome is None:
            raise RuntimeError("An environment of a batch cannot be stepped alone: step the vectorised environment.")
        return outcome


def _put_stub_under(env: Any) -> _Stub:
    """
    Put a stub between an environment and its wrappers.

    :param env: the environment, in one wrapper or more; changed in place
    :return: the stub
    """
    while env.env is not env.unwrapped:
        env = env.env
    env.env = _Stub(env.env)
    return env.env
