"""Replay of (s, a, s', z): SB3's replay buffers with the skill kept beside each transition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.networks import check_finite
from sb3_metra.common.type_aliases import SkillReplayBufferSamples


class SkillReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer plus the skill of each transition, which ``add`` takes from ``info["skill"]``.

    Observations of 64-bit floats are stored with 32 bits, which is all that the networks see.

    :param buffer_size: number of transitions, over all environments
    :param observation_space: observations
    :param action_space: actions
    :param device: where samples go
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported, kept for SB3's interface
    :param handle_timeout_termination: bootstrap at time limits; ``False`` treats them as terminal, as the authors' code
    :param skill_dim: number of components of a skill
    """

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
        self.skills = np.zeros((self.buffer_size, n_envs, skill_dim), dtype=np.float32)

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
        Keep one transition of each environment.

        :param obs: s, (n_envs, \\*obs_shape)
        :param next_obs: s', the last observation of an episode rather than the first of the next
        :param action: in [-1, 1], (n_envs, action_dim)
        :param reward: the environment's, (n_envs,)
        :param done: whether the episode ended, (n_envs,)
        :param infos: one dictionary for each environment, with ``skill``, (skill_dim,)
        :raises ValueError: where s' is not finite; nothing is kept then
        """
        check_finite(next_obs, "from the environment; it was not stored")
        self.skills[self.pos] = [info["skill"] for info in infos]
        super().add(obs, next_obs, action, reward, done, infos)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{type(self).__name__} of {self.buffer_size * self.n_envs} transitions in host memory"

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> SkillReplayBufferSamples:
        return self._gather(batch_inds, np.random.randint(0, high=self.n_envs, size=len(batch_inds)), env)

    def _gather(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None = None
    ) -> SkillReplayBufferSamples:
        dones = self.dones[batch_inds, env_inds] * (1.0 - self.timeouts[batch_inds, env_inds])
        rewards = self._normalize_reward(self.rewards[batch_inds, env_inds], env)
        observations, next_observations = self._gather_observations(batch_inds, env_inds, env)
        return SkillReplayBufferSamples(
            observations,
            self._to_device(self.actions[batch_inds, env_inds]),
            next_observations,
            self._to_device(dones[:, None]),
            self._to_device(rewards[:, None]),
            self._to_device(self.skills[batch_inds, env_inds]),
        )

    def _gather_observations(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None
    ) -> tuple[Any, Any]:
        """s and s' of the given rows and environments, on the device."""
        return (
            self._observations_to_torch(self.observations, batch_inds, env_inds, env),
            self._observations_to_torch(self.next_observations, batch_inds, env_inds, env),
        )

    def _observations_to_torch(self, stored: Any, batch_inds: np.ndarray, env_inds: np.ndarray, env: Any) -> Any:
        if isinstance(stored, dict):
            chosen = self._normalize_obs({key: x[batch_inds, env_inds] for key, x in stored.items()}, env)
            return {key: self._to_device(x) for key, x in chosen.items()}  # type: ignore[union-attr]
        return self._to_device(self._normalize_obs(stored[batch_inds, env_inds], env))  # type: ignore[arg-type]

    def _to_device(self, array: np.ndarray) -> th.Tensor:
        """Fancy indexing has copied already, so that the tensor may share the array's memory."""
        return th.as_tensor(array).to(self.device, non_blocking=self.device.type == "cuda")


class DictSkillReplayBuffer(SkillReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """:class:`SkillReplayBuffer` for dictionaries of observations; same parameters."""


def _single_precision(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _single_precision(subspace) for key, subspace in space.items()})
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space
