"""CIC: Contrastive Intrinsic Control (Laskin et al.; NeurIPS 2022), in one file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.arguments import FLAG, integer
from sb3_metra.common.networks import Representation, make_mlp
from sb3_metra.common.particle_entropy import ParticleEntropy
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective, draw_along
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.spectral_norm import normalize_spectrally
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples

_TEMPERATURE = 0.5
_EPSILON = 1e-6  # inside a logarithm


class CICObjective(RepresentationObjective):
    """
    Learn phi by telling the skill of a transition (phi(s), phi(s')) from the other skills of the batch, and reward the
    entropy of states in phi's space.

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param entropy: the reward
    :param net_arch: units of each hidden layer of the networks beside phi
    """

    def __init__(
        self, prior: SkillPrior, phi: Representation, entropy: ParticleEntropy, net_arch: list[int] | None = None
    ) -> None:
        super().__init__(prior, phi)
        self.entropy = entropy
        self.skill_encoder = make_mlp(prior.dim, prior.dim, net_arch)
        normalize_spectrally(self.skill_encoder)
        self.predictor = make_mlp(2 * prior.dim, prior.dim, net_arch)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        The code of a transition, a unit vector, learns to agree with that of its skill more than with those of others.

        :param batch: transitions
        :return: the loss, and what to log
        """
        key = self.features(self.phi(batch.observations), self.phi(batch.next_observations))
        logits = F.normalize(self.skill_encoder(batch.skills), dim=1) @ key.T / _TEMPERATURE
        others = (logits.exp().sum(dim=1) - math.exp(1.0 / _TEMPERATURE)).clamp(min=_EPSILON)
        cpc_loss = (others + _EPSILON).log() - logits.diagonal()
        phi_loss = cpc_loss.mean()
        return phi_loss, {"phi_loss": phi_loss.detach(), "cpc_loss": cpc_loss.detach()}

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        How far phi(s) is from the nearest phi(s') of the batch, the own one among them.

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        return self.entropy(self.phi(batch.observations), self.phi(batch.next_observations))

    def features(self, latents: th.Tensor, next_latents: th.Tensor) -> th.Tensor:
        """As the parent's, but the code of a transition, a unit vector."""
        return F.normalize(self.predictor(th.cat([latents, next_latents], dim=1)), dim=1)

    def skill_along(self, direction: np.ndarray) -> np.ndarray:
        """As the parent's: the skill, of fixed draws from p(z), whose code agrees best with the direction."""
        return draw_along(self.prior, self.skill_encoder, direction)


class CIC(RepresentationDiscovery):
    """
    Discover skills of many dimensions that spread over the state space, by the entropy of states.

    Paper: https://arxiv.org/abs/2202.00161

    The CSF authors' CIC has ``divide_by_variance=True``, so that the reward depends on phi's scale. As in their code,
    the loss subtracts e^(1/temperature) from the sum over skills, the largest value of the own term instead of the term
    itself: 2 % of the sum with 256 transitions.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param unit_skills: continuous skills on the unit sphere instead of Gaussian ones
    :param n_neighbors: nearest neighbours in the batch, at most as many as ``batch_size``
    :param divide_by_variance: divide distances by their variance instead of their deviation
    :param kwargs: arguments of phi, whose ``net_arch`` applies to all networks here, and of SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    :raises ValueError: if a batch has fewer transitions than ``n_neighbors``
    """

    objective: CICObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 64,
        discrete: bool = False,
        *,
        unit_skills: bool = False,
        n_neighbors: int = 16,
        divide_by_variance: bool = False,
        **kwargs: Any,
    ) -> None:
        self.n_neighbors, self.divide_by_variance = n_neighbors, FLAG("divide_by_variance", divide_by_variance)
        super().__init__(policy, env, skill_dim, discrete, unit_skills=unit_skills, **kwargs)

    def make_objective(self) -> CICObjective:
        """A new phi and what learns with it."""
        self.n_neighbors = integer(1)("n_neighbors", self.n_neighbors)
        if self.n_neighbors > self.batch_size:
            raise ValueError(f"n_neighbors must be at most batch_size={self.batch_size}, got {self.n_neighbors}")
        entropy = ParticleEntropy(self.n_neighbors, self.divide_by_variance)
        return CICObjective(self.skill_prior, self.make_representation(), entropy, self.phi_kwargs.get("net_arch"))
