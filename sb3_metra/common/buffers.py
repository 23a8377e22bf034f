"""Replay of (s, a, s', z): SB3's replay buffers with the skill kept beside each transition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.arrays import (
    DeviceCopy,
    Signature,
    check_arrays,
    flatten,
    grow,
    map_arrays,
    take,
    to_device,
    unflatten,
)
from sb3_metra.common.checks import MAX_OBSERVATION, as_flags, as_stored
from sb3_metra.common.episodes import Episodes
from sb3_metra.common.type_aliases import EpisodeObservations, SkillReplayBufferSamples

_Side = Literal["observations", "next_observations"]

FROM_ENV = "from the environment; it was not stored"  # what comes into the buffer


class SkillReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer plus the skill of each transition, which ``add`` takes from ``info["skill"]``.

    Observations of 64-bit floats are stored with 32 bits, which is all that the networks see. Samples are drawn with a
    generator of the buffer's own, which ``seed`` sets.

    :param buffer_size: number of transitions, over all environments
    :param observation_space: observations
    :param action_space: actions
    :param device: where samples go
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported, kept for SB3's interface
    :param handle_timeout_termination: bootstrap at time limits; ``False`` treats them as terminal, as the authors' code
    :param skill_dim: number of components of a skill
    """

    max_observation = MAX_OBSERVATION  # a larger one is refused; normalisation allows for more

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        skill_dim: int,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage must be False, got True: episodes end by truncation")
        super().__init__(
            buffer_size,
            _single_precision(observation_space),
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        if isinstance(
            action_space, spaces.Box
        ):  # actions are scaled to [-1, 1], also where the environment's are integers
            self.actions = self.actions.astype(np.float32, copy=False)
        self.skills = np.zeros((self.buffer_size, n_envs, skill_dim), dtype=np.float32)
        self.since_start, self.until_end = np.zeros((2, self.buffer_size, n_envs), dtype=np.int32)
        self._episodes = Episodes(self.since_start, self.until_end)
        self._copy = DeviceCopy(self._SAMPLED)
        self.seed()

    @property
    def skill_dim(self) -> int:
        """Number of components of a skill."""
        return self.skills.shape[-1]

    def seed(self, seed: int | None = None) -> None:
        """
        Begin the sequence of random numbers that ``sample`` draws from; it is the buffer's own.

        :param seed: its seed; ``None``: one from the operating system
        """
        self.rng = np.random.Generator(np.random.PCG64(seed))

    def reset(self) -> None:
        """Forget every transition."""
        super().reset()
        self._episodes = Episodes(self.since_start, self.until_end)
        self._copy = DeviceCopy(self._SAMPLED)

    # Adding

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Keep one transition of each environment, in memory of the buffer's own.

        A new episode begins after ``done``, after ``end_episodes``, and where s is not s' of the step before.

        :param obs: s, (n_envs, \\*obs_shape)
        :param next_obs: s', the last observation of an episode rather than the first of the next
        :param action: in [-1, 1], (n_envs, action_dim)
        :param reward: the environment's, (n_envs,)
        :param done: whether the episode ended, (n_envs,)
        :param infos: one dictionary for each environment, with ``skill``, (skill_dim,)
        :raises ValueError: if something has another shape, is missing, or is not finite in single precision; then
            nothing is kept
        """
        step = self._checked(obs, next_obs, action, reward, done, infos)
        breaks = self._find_breaks(step["observations"])
        if breaks is not None:
            self.end_episodes(breaks)
        self._keep(step)

    def check(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """
        Refuse what ``add`` would refuse of a step by itself; parameters as there.

        :raises ValueError: as there
        """
        self._checked(obs, next_obs, action, reward, done, infos)

    def _checked(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> dict[str, Any]:
        """The arrays of a step by name, as they will be stored."""
        envs = (self.n_envs,)
        if len(infos) != self.n_envs:
            raise ValueError(f"infos must hold one dictionary for each of {self.n_envs} environments, got {len(infos)}")
        try:
            skills = [info["skill"] for info in infos]
        except KeyError:
            raise ValueError('infos must hold the skill of each environment as "skill", got one without') from None
        if np.ndim(action) != 2 and len(action) == self.n_envs:
            action = np.reshape(action, (self.n_envs, -1))
        step = {
            "observations": self._checked_observation(obs),
            "next_observations": self._checked_observation(next_obs),
            "actions": as_stored(action, "action", (*envs, self.action_dim), self.actions.dtype),
            "rewards": as_stored(reward, "reward", envs, self.rewards.dtype, FROM_ENV),
            "dones": as_flags(done, "done", envs),
            "timeouts": 0.0,
            "skills": as_stored(skills, "skill", (*envs, self.skill_dim), self.skills.dtype),
        }
        if self.handle_timeout_termination and any(step["dones"].tolist()):
            timeouts = [info.get("TimeLimit.truncated", False) for info in infos]
            step["timeouts"] = as_flags(timeouts, 'info["TimeLimit.truncated"]', envs)
        return step

    def _checked_observation(self, obs: Any) -> Any:
        if isinstance(obs, tuple):
            raise ValueError("observation must be an array or a dict, got a tuple: `env.reset()` returns (obs, info)")
        if not isinstance(self.observations, dict):
            stored = self.observations
            return as_stored(obs, "observation", stored.shape[1:], stored.dtype, FROM_ENV, self.max_observation)
        if not isinstance(obs, dict) or not obs.keys() >= self.observations.keys():
            got = list(obs) if isinstance(obs, dict) else type(obs).__name__
            raise ValueError(f"observation must be a dict of {list(self.observations)}, got {got}")
        return {
            key: as_stored(obs[key], key, x.shape[1:], x.dtype, FROM_ENV, self.max_observation)
            for key, x in self.observations.items()
        }

    def _find_breaks(self, obs: Any) -> np.ndarray | None:
        """Where s is not s' of the step before, which is so where an environment was reset out of sight."""
        if self.size() == 0:
            return None
        row = self.pos - 1
        last: Any = self.next_observations
        pairs = [(x, last[key][row]) for key, x in obs.items()] if isinstance(obs, dict) else [(obs, last[row])]
        if all(x.tobytes() == y.tobytes() for x, y in pairs):
            return None
        return np.any([(x != y).reshape(self.n_envs, -1).any(axis=1) for x, y in pairs], axis=0)

    def _keep(self, step: dict[str, Any]) -> None:
        row = self.pos
        for name, x in step.items():
            stored = getattr(self, name)
            if isinstance(stored, dict):
                for key, part in stored.items():
                    part[row] = x[key]
            else:
                stored[row] = x
        self._copy.advance()
        self._episodes.advance(row)
        if any(step["dones"].tolist()):
            self._episodes.end(row, step["dones"])
        self.pos = (row + 1) % self.buffer_size
        self.full = self.full or self.pos == 0

    def end_episodes(self, ended: np.ndarray | None = None) -> None:
        """
        Let the next transitions begin new episodes, as after a reset that came without ``done``.

        :param ended: whether an environment's episode has ended, (n_envs,); ``None``: all have
        """
        self._episodes.end(self.pos - 1, np.ones(self.n_envs, dtype=bool) if ended is None else ended)

    # Sampling

    def __str__(self) -> str:
        return f"{type(self).__name__} of {self.buffer_size * self.n_envs} transitions in host memory"

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> SkillReplayBufferSamples:  # type: ignore[override]
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: number of transitions
        :param env: environments whose statistics normalise observations and rewards
        :return: transitions on the device
        :raises ValueError: if there is none
        """
        return self._get_samples(self._draw_rows(batch_size), env)

    def sample_with_episodes(
        self, batch_size: int, env: VecNormalize | None = None, *, ahead: int | tuple[int, int] = 1
    ) -> SkillReplayBufferSamples:
        """
        Draw transitions as ``sample`` does, and observations of their episodes with them.

        :param batch_size: number of transitions
        :param env: environments whose statistics normalise observations and rewards
        :param ahead: steps from s_t to s_{t+c}: c, or the smallest and the largest c to draw uniformly from
        :return: transitions on the device, with ``episode``
        :raises ValueError: if there is no transition, or ``ahead`` is not from 1 up
        """
        low, high = (ahead, ahead) if isinstance(ahead, int) else ahead
        if not 1 <= low <= high:
            raise ValueError(
                f"ahead must be a number of steps from 1 up, or the smallest and the largest, got {ahead!r}"
            )
        rows = self._draw_rows(batch_size)
        envs = self.rng.integers(self.n_envs, size=batch_size)
        steps = low if low == high else self.rng.integers(low, high + 1, size=batch_size)
        return self._gather(rows, envs, env)._replace(episode=self._gather_episodes(rows, envs, steps, env))

    def _gather_episodes(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, steps: np.ndarray | int, env: VecNormalize | None = None
    ) -> EpisodeObservations:
        n_rows, oldest, newest = self.buffer_size, self.pos if self.full else 0, self.pos - 1
        first = self._episodes.first(batch_inds, env_inds, oldest)
        remaining = self._episodes.remaining(batch_inds, env_inds, newest)
        ahead = (batch_inds + np.minimum(np.subtract(steps, 1), remaining)) % n_rows
        return EpisodeObservations(
            self._gather_one("observations", first, env_inds, env),
            self._gather_one("next_observations", (batch_inds + remaining) % n_rows, env_inds, env),
            self._gather_one("next_observations", ahead, env_inds, env),
        )

    def _draw_rows(self, batch_size: int) -> np.ndarray:
        if self.size() == 0:
            raise ValueError("replay buffer must hold a transition before it is sampled from, got none")
        return self.rng.integers(self.size(), size=batch_size)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> SkillReplayBufferSamples:
        return self._gather(batch_inds, self.rng.integers(self.n_envs, size=len(batch_inds)), env)

    def _gather(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None = None
    ) -> SkillReplayBufferSamples:
        names = ("actions", "dones", "timeouts", "rewards", "skills")
        actions, dones, timeouts, rewards, skills = (self._take(x, batch_inds, env_inds, env) for x in names)
        observations, next_observations = self._gather_observations(batch_inds, env_inds, env)
        ends = (dones * (1.0 - timeouts))[:, None]
        return SkillReplayBufferSamples(observations, actions, next_observations, ends, rewards[:, None], skills)

    def _gather_observations(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None
    ) -> tuple[Any, Any]:
        """s and s' of the given rows and environments, on the device."""
        return (
            self._gather_one("observations", batch_inds, env_inds, env),
            self._gather_one("next_observations", batch_inds, env_inds, env),
        )

    def _gather_one(self, name: _Side, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None) -> Any:
        """s or s' of the given rows and environments, on the device."""
        return self._take(name, batch_inds, env_inds, env)

    def _take(self, name: str, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None) -> Any:
        """The given rows and environments of an array, on the device."""
        if env is None and self._copy.follow(self):
            return self._copy.take(name, batch_inds, env_inds)
        chosen: Any = map_arrays(lambda x: take(x, batch_inds, env_inds), getattr(self, name))
        if name == "rewards":
            chosen = self._normalize_reward(chosen, env)
        elif name in ("observations", "next_observations"):
            chosen = self._normalize_obs(chosen, env)
        return map_arrays(lambda x: to_device(x, self.device), chosen)

    # Saving

    def to_arrays(self) -> dict[str, np.ndarray]:
        """
        All transitions, in arrays as long as what is filled; with ``meta`` they give the buffer back to the bit.

        :return: arrays by name, which may share memory with the buffer: write them before more is added
        """
        return {name: x[: self.size()] for name, x in self._rows().items()}

    def meta(self) -> dict[str, Any]:
        """
        What is not in the arrays: sizes, spaces, the place in the ring, and the generator's state.

        :return: numbers and strings that JSON can hold
        """
        return {
            "class": type(self).__name__,
            "buffer_size": self.buffer_size,
            "n_envs": self.n_envs,
            "skill_dim": self.skill_dim,
            "observation_space": str(self.observation_space),
            "action_space": str(self.action_space),
            "handle_timeout_termination": self.handle_timeout_termination,
            "pos": self.pos,
            "full": self.full,
            "rng": self.rng.bit_generator.state,
        }

    def load_arrays(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """
        Restore a saved buffer, with its size.

        :param meta: what ``meta`` gave
        :param arrays: what ``to_arrays`` gave
        :raises ValueError: if they do not fit together, or belong to a buffer of another kind; nothing changes then
        """
        self._check_saved(meta, arrays)
        self._take_saved(meta, arrays)

    _SAMPLED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "skills")
    # attributes with a row for each step of the environments
    _ROWS: tuple[str, ...] = (*_SAMPLED, "since_start", "until_end")
    _FREE: frozenset[str] = frozenset({"buffer_size", "pos", "full", "rng"})  # what may differ between two buffers

    def _rows(self) -> dict[str, np.ndarray]:
        """The arrays with a row for each step, by their names in a file."""
        return flatten({name.lstrip("_"): getattr(self, name) for name in self._ROWS})

    def _check_saved(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        own = self.meta()
        if meta.keys() != own.keys():
            raise ValueError(f"replay buffer must be described by {', '.join(own)}, got {', '.join(map(str, meta))}")
        for name in (name for name in own if name not in self._FREE):
            if meta[name] != own[name]:
                raise ValueError(f"replay buffer must have {name} {own[name]}, got {meta[name]}")
        for name in self._FREE - {"rng"}:
            if type(meta[name]) is not type(own[name]) or meta[name] < 0:
                raise ValueError(f"replay buffer must have a {type(own[name]).__name__} as {name}, got {meta[name]!r}")
        if meta["pos"] >= meta["buffer_size"]:
            raise ValueError(f"replay buffer must have pos below {meta['buffer_size']}, got {meta['pos']}")
        _generator(meta["rng"])
        check_arrays(arrays, self._signatures(meta), "replay buffer")

    def _signatures(self, meta: Mapping[str, Any]) -> dict[str, Signature]:
        """Shapes and types of the arrays that belong to a description."""
        size = meta["buffer_size"] if meta["full"] else meta["pos"]
        return {name: ((size, *x.shape[1:]), x.dtype) for name, x in self._rows().items()}

    def _take_saved(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        n_rows = meta["buffer_size"]
        for name in self._ROWS:
            filled = unflatten(arrays, name.lstrip("_"), getattr(self, name))
            setattr(self, name, map_arrays(lambda x: grow(x, n_rows), filled))
        self.buffer_size, self.pos, self.full, self.rng = n_rows, meta["pos"], meta["full"], _generator(meta["rng"])
        self._take_up_episodes()

    def _take_up_episodes(self) -> None:
        newest = self.pos - 1 if self.size() > 0 else None
        self._episodes = Episodes(self.since_start, self.until_end, newest)
        self._copy = DeviceCopy(self._SAMPLED)

    def __getstate__(self) -> dict[str, Any]:
        """Only what is filled."""
        size = self.size()
        rows = {name: map_arrays(lambda x: x[:size], getattr(self, name)) for name in self._ROWS}
        return {name: x for name, x in self.__dict__.items() if name not in ("_episodes", "_copy")} | rows

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        for name in state.keys() & set(self._ROWS):
            setattr(self, name, map_arrays(lambda x: grow(x, self.buffer_size), state[name]))
        if "rng" not in state:  # written by an earlier version
            self.seed()
        if "since_start" in state:
            self._take_up_episodes()
        else:
            self._index_episodes()

    def _index_episodes(self) -> None:
        """Find the episodes anew from where they ended."""
        self.since_start, self.until_end = np.zeros((2, self.buffer_size, self.n_envs), dtype=np.int32)
        self._episodes, self._copy = Episodes(self.since_start, self.until_end), DeviceCopy(self._SAMPLED)
        ended = self._ends()
        for i in range(self.size()):
            row = (self.pos - self.size() + i) % self.buffer_size
            self._episodes.advance(row)
            self._episodes.end(row, ended[row])

    def _ends(self) -> np.ndarray:
        """Which transitions are known to be the last of an episode, (buffer_size, n_envs)."""
        return self.dones > 0


class DictSkillReplayBuffer(SkillReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """:class:`SkillReplayBuffer` for dictionaries of observations; same parameters."""


def _generator(state: Any) -> np.random.Generator:
    generator = np.random.Generator(np.random.PCG64())
    try:
        generator.bit_generator.state = state
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"replay buffer must have the state of a PCG64 as rng, got {state!r}") from None
    return generator


def _single_precision(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _single_precision(subspace) for key, subspace in space.items()})
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space
