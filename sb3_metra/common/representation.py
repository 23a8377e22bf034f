"""Objectives that align displacements of a representation phi with the skill."""

from __future__ import annotations

import numpy as np
import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_metra.common.networks import Representation
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class RepresentationObjective(SkillObjective):
    """
    A method that rewards r(s, z, s') = (phi(s') - phi(s)) . z (METRA paper, equation 6; LSD paper, equation 6).

    A subclass says in ``loss`` what phi learns.

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

    def features(self, latents: th.Tensor, next_latents: th.Tensor) -> th.Tensor:
        """
        The features of transitions that skills follow, as directions among skills; here phi(s') - phi(s).

        :param latents: phi(s), (batch, dim)
        :param next_latents: phi(s'), (batch, dim)
        :return: (batch, dim)
        """
        return next_latents - latents

    def skill_along(self, direction: np.ndarray) -> np.ndarray:
        """
        The skill that follows a direction among features best; here argmax_z <direction, z>.

        :param direction: (..., dim)
        :return: skills, same shape
        """
        return self.prior.toward(direction)


@th.no_grad()
def draw_along(prior: SkillPrior, encoder: nn.Module, direction: np.ndarray, n: int = 4096) -> np.ndarray:
    """
    The skill whose code agrees best with a direction, among fixed draws from p(z).

    :param prior: p(z)
    :param encoder: a map of skills to codes, of which the direction counts
    :param direction: among codes, (..., dim)
    :param n: number of draws
    :return: skills, (..., skill_dim)
    """
    skills = prior.evaluation_skills(n, np.random.default_rng(0))
    device = next(encoder.parameters()).device
    codes = F.normalize(encoder(th.as_tensor(skills, device=device)), dim=1).cpu().numpy()
    return skills[(direction @ codes.T).argmax(axis=-1)]
