"""The types that pass between the files of the package; no logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import TensorDict

#: A batch of observations on the device: a tensor, or a dictionary of tensors.
Observations: TypeAlias = th.Tensor | TensorDict

#: Detached tensors by name that a loss hands back; whoever logs them reads them once per call of ``train()``.
Info = dict[str, th.Tensor]

#: NumPy's old global state and its new generators draw the same way for the calls used here.
Random: TypeAlias = np.random.Generator | np.random.RandomState


class EpisodeObservations(NamedTuple):
    """
    Observations of the episodes that the transitions of a batch belong to, each (batch, \\*obs_shape).

    ``first`` is s_0; if the replay buffer has overwritten an episode's beginning, it is the oldest observation that is
    kept of it. ``last`` is s_T; of an episode that is still running, the newest observation so far. ``ahead`` is
    s_{t+c}, the observation c steps after s_t, or ``last`` if the episode ends before.
    """

    first: Observations
    last: Observations
    ahead: Observations


class SkillReplayBufferSamples(NamedTuple):
    """
    A batch of transitions, each with the skill that was followed when it was collected.

    ``observations`` and ``next_observations`` never span a reset: at the end of an episode ``next_observations``
    holds the true last observation. Shapes: observations (batch, \\*obs_shape), actions (batch, action_dim) in
    [-1, 1], dones (batch, 1) with 1 where the critic must not bootstrap, rewards (batch, critic_dim), skills
    (batch, skill_dim). ``episode`` is there if it was asked for.
    """

    observations: Observations
    actions: th.Tensor
    next_observations: Observations
    dones: th.Tensor
    rewards: th.Tensor
    skills: th.Tensor
    episode: EpisodeObservations | None = None

    def head(self, size: int) -> SkillReplayBufferSamples:
        """
        The first ``size`` transitions of the batch.

        :param size: number of transitions, at most the size of this batch
        :return: views, nothing is copied
        """
        return map_tensors(lambda x: x[:size], self)


def map_tensors(function: Callable[[th.Tensor], Any], batch: Any) -> Any:
    """
    Apply a function to every tensor of a batch.

    :param function: takes a tensor
    :param batch: a tensor, a dictionary or a named tuple of such, or ``None``
    :return: the same, made of what the function returned
    """
    if batch is None:
        return None
    if isinstance(batch, dict):
        return {key: map_tensors(function, x) for key, x in batch.items()}
    if isinstance(batch, tuple):
        return type(batch)(*(map_tensors(function, x) for x in batch))
    return function(batch)
