"""The types that pass between the files of the package; no logic."""

from __future__ import annotations

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


class SkillReplayBufferSamples(NamedTuple):
    """
    A batch of transitions, each with the skill that was followed when it was collected.

    ``observations`` and ``next_observations`` never span a reset: at the end of an episode ``next_observations``
    holds the true last observation. Shapes: observations (batch, \\*obs_shape), actions (batch, action_dim) in
    [-1, 1], dones (batch, 1) with 1 where the critic must not bootstrap, rewards (batch, critic_dim), skills
    (batch, skill_dim).
    """

    observations: Observations
    actions: th.Tensor
    next_observations: Observations
    dones: th.Tensor
    rewards: th.Tensor
    skills: th.Tensor

    def head(self, size: int) -> SkillReplayBufferSamples:
        """
        The first ``size`` transitions of the batch.

        :param size: number of transitions, at most the size of this batch
        :return: views, nothing is copied
        """
        parts: list[Any] = [{k: v[:size] for k, v in x.items()} if isinstance(x, dict) else x[:size] for x in self]
        return SkillReplayBufferSamples(*parts)
