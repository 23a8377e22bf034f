"""Objectives that align displacements of a representation phi with the skill."""

from __future__ import annotations

import torch as th

from sb3_metra.common.networks import Representation
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class RepresentationObjective(SkillObjective):
    """
    A method that rewards r(s, z, s') = (phi(s') - phi(s)) . z (METRA paper, equation 6; LSD paper, equation 6).

    A subclass says in :meth:`loss` what phi learns.

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    """

    def __init__(self, prior: SkillPrior, phi: Representation) -> None:
        super().__init__(prior)
        self.phi = phi

    def align(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, th.Tensor, Info]:
        """
        How far phi moves along the skill in each transition.

        :param batch: transitions
        :return: dphi = phi(s') - phi(s), (batch, dim); dphi . z, (batch,); and both to log
        """
        displacement = self.phi.displacement(batch.observations, batch.next_observations)
        alignment = (displacement * self.prior.embed(batch.skills)).sum(dim=1)
        info = {"alignment": alignment.detach(), "displacement_norm": displacement.detach().norm(dim=1)}
        return displacement, alignment, info

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        r(s, z, s') = (phi(s') - phi(s)) . z.

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        return self.align(batch)[1].unsqueeze(1)
