"""What is learnt about states and what is rewarded: the interface of every skill discovery method."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch as th
from torch import nn

from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class SkillObjective(nn.Module, ABC):
    """
    A method of skill discovery: it knows no policy, no loop and no logger.

    A gradient step calls :meth:`loss` in training mode and :meth:`reward` in evaluation mode.

    :param prior: the prior p(z) of the skills in the batches
    """

    def __init__(self, prior: SkillPrior) -> None:
        super().__init__()
        self.prior = prior

    @abstractmethod
    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        What every parameter of this module minimises.

        :param batch: transitions; their rewards are not used
        :return: a scalar, and detached tensors to log
        """

    @abstractmethod
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        The intrinsic reward of each transition under the current parameters.

        :param batch: transitions
        :return: (batch, critic_dim), without gradient; with successor features the reward is its product with the skill
        """

    def relabel(self, batch: SkillReplayBufferSamples) -> SkillReplayBufferSamples:
        """
        The transitions with the skills that the policy learns with: the rollout's, unless a method chooses others.

        :param batch: transitions
        """
        return batch
