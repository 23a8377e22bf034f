"""VISR: Fast Task Inference with Variational Intrinsic Successor Features (Hansen et al.; ICLR 2020), in one file."""

from __future__ import annotations

from typing import Any

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.arguments import FLAG
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.successor_features import SuccessorFeatures
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class VISRObjective(RepresentationObjective):
    """
    Tell the skill from the state: maximise E[phi(s) . z / ||phi(s)||], the log-likelihood of z under a von Mises-Fisher
    distribution around phi(s).

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param normalize_features: see :class:`VISR`
    """

    def __init__(self, prior: SkillPrior, phi: Representation, normalize_features: bool = True) -> None:
        super().__init__(prior, phi)
        self.normalize_features = normalize_features

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises phi(s) . z / ||phi(s)||.

        :param batch: transitions
        :return: the loss, and what to log
        """
        phi = self.phi(batch.observations)
        alignment = (F.normalize(phi, dim=1) * batch.skills).sum(dim=1)
        phi_loss = -alignment.mean()
        info = {"alignment": alignment.detach(), "phi_norm": phi.detach().norm(dim=1)}
        return phi_loss, {"phi_loss": phi_loss.detach()} | info

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        The features that the critics add up: phi(s), with r(s, z) = phi(s) . z.

        :param batch: transitions
        :return: (batch, dim), without gradient
        """
        phi = self.phi(batch.observations)
        return self.features(phi, phi)

    def features(self, latents: th.Tensor, next_latents: th.Tensor) -> th.Tensor:
        """
        phi(s'), or its direction: a goal's skill is argmax_z <phi(g), z>, from any start.

        :param latents: phi(s), unused, (batch, dim)
        :param next_latents: phi(s'), (batch, dim)
        :return: (batch, dim)
        """
        return F.normalize(next_latents, dim=1) if self.normalize_features else next_latents


class VISR(SuccessorFeatures):
    """
    Discover skills that a representation tells apart by the states that they visit, with successor features as critics.

    Paper: https://arxiv.org/abs/1906.05030

    The CSF authors' VISR has ``normalize_features=False``: it learns only the direction of phi, but rewards phi with
    its unconstrained length. As in their code, the reward uses s instead of s', which differs by one step's discount.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill
    :param discrete: must be ``False``
    :param unit_skills: must be ``True``
    :param normalize_features: reward phi(s) . z / ||phi(s)|| instead of phi(s) . z
    :param kwargs: arguments of phi, SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    :raises ValueError: unless skills are on the unit sphere
    """

    objective: VISRObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 5,
        discrete: bool = False,
        *,
        unit_skills: bool = True,
        normalize_features: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value, expected in (("discrete", discrete, False), ("unit_skills", unit_skills, True)):
            if value is not expected:
                raise ValueError(f"{name} must be {expected} for VISR, whose skills have norm 1, got {value!r}")
        self.normalize_features = FLAG("normalize_features", normalize_features)
        super().__init__(policy, env, skill_dim, **kwargs)

    def make_objective(self) -> VISRObjective:
        """A new phi."""
        return VISRObjective(self.skill_prior, self.make_representation(), self.normalize_features)
