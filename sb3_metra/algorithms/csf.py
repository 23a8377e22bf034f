"""CSF: Can a MISL Fly? (Zheng, Tuyls, Peng, Eysenbach; ICLR 2025), contrastive successor features, in one file."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.arguments import integer, number
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.successor_features import SuccessorFeatures
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class CSFObjective(RepresentationObjective):
    """
    Tell the skill of a transition from others: maximise E[dphi . z - xi log sum_j exp(dphi . z_j)] over fresh skills
    z_j, where dphi = phi(s') - phi(s).

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param contrast_coef: xi
    :param n_negatives: number of skills z_j, which the whole batch shares
    """

    def __init__(
        self, prior: SkillPrior, phi: Representation, contrast_coef: float = 5.0, n_negatives: int = 256
    ) -> None:
        super().__init__(prior, phi)
        self.contrast_coef = number(0)("contrast_coef", contrast_coef)
        self.n_negatives = integer(1)("n_negatives", n_negatives)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises dphi . z - xi log sum_j exp(dphi . z_j).

        :param batch: transitions
        :return: the loss, and what to log
        """
        displacement, alignment, info = self.align(batch)
        negatives = self.prior.embed(self.prior.draw(self.n_negatives, displacement.device))
        logsumexp = (displacement @ negatives.T).logsumexp(dim=1)
        phi_loss = -(alignment - self.contrast_coef * logsumexp).mean()
        return phi_loss, {"phi_loss": phi_loss.detach(), "logsumexp": logsumexp.detach()} | info

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        The features that the critics add up: dphi, with r(s, z, s') = dphi . z.

        :param batch: transitions
        :return: (batch, dim), without gradient
        """
        return self.phi.displacement(batch.observations, batch.next_observations)


class CSF(SuccessorFeatures):
    """
    Discover METRA's kind of skills by a contrastive loss instead of a constraint, with successor features as critics.

    Paper: https://arxiv.org/abs/2412.08021

    As in the authors' code, ``logsumexp`` sums over the skills z_j instead of averaging, and z is not one of them.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param contrast_coef: xi, weight of the contrast with other skills
    :param n_negatives: number of other skills
    :param kwargs: arguments of phi, SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    """

    objective: CSFObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        contrast_coef: float = 5.0,
        n_negatives: int = 256,
        **kwargs: Any,
    ) -> None:
        self.contrast_coef = contrast_coef
        self.n_negatives = n_negatives
        super().__init__(policy, env, skill_dim, discrete, **kwargs)

    def make_objective(self) -> CSFObjective:
        """A new phi."""
        return CSFObjective(self.skill_prior, self.make_representation(), self.contrast_coef, self.n_negatives)
