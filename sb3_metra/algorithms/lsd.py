"""LSD: Lipschitz-constrained Unsupervised Skill Discovery (Park, Choi, Kim, Lee, Kim; ICLR 2022), in one file."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch.nn.utils import parametrize

from sb3_metra.common.arguments import FLAG
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.spectral_norm import normalize_spectrally
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class LSDObjective(RepresentationObjective):
    """
    Maximise E[(phi(s') - phi(s)) . z] subject to ||phi(x) - phi(y)|| <= ||x - y|| for all x, y: each
    layer of phi is divided by its largest singular value.

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim, whose layers are normalised here
    :param iterate_each_pass: see :class:`LSD`
    """

    def __init__(self, prior: SkillPrior, phi: Representation, iterate_each_pass: bool = False) -> None:
        super().__init__(prior, phi)
        self.iterate_each_pass = iterate_each_pass
        normalize_spectrally(phi)

    def align(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, th.Tensor, Info]:
        """
        As the parent's, with the same weights of phi for s and s'.

        :param batch: transitions
        :return: dphi = phi(s') - phi(s), (batch, dim); dphi . z, (batch,); and both to log
        """
        with nullcontext() if self.iterate_each_pass else parametrize.cached():
            return super().align(batch)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises dphi . z.

        :param batch: transitions
        :return: the loss, and what to log
        """
        _, alignment, info = self.align(batch)
        phi_loss = -alignment.mean()
        return phi_loss, {"phi_loss": phi_loss.detach()} | info

    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        r(s, z, s') = (phi(s') - phi(s)) . z.

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        self.phi.train(self.iterate_each_pass)
        reward = super().reward(batch)
        self.phi.eval()
        return reward


class LSD(RepresentationDiscovery):
    """
    Discover skills that move far in the state space, measured by the Euclidean distance of observations.

    Paper: https://arxiv.org/abs/2202.00914

    The authors' code has ``iterate_each_pass=True``: a power iteration in each of the four forward passes of a gradient
    step, so that s and s' of one displacement see different weights. By default a gradient step takes one, for s and s'
    together. Their vectors begin at random; here fifteen iterations come first, also with the argument.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param iterate_each_pass: iterate the power method in each forward pass, as the authors' code does
    :param kwargs: arguments of phi, SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    """

    objective: LSDObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        iterate_each_pass: bool = False,
        **kwargs: Any,
    ) -> None:
        self.iterate_each_pass = FLAG("iterate_each_pass", iterate_each_pass)
        super().__init__(policy, env, skill_dim, discrete, **kwargs)

    def make_objective(self) -> LSDObjective:
        """A new phi."""
        return LSDObjective(self.skill_prior, self.make_representation(), self.iterate_each_pass)
