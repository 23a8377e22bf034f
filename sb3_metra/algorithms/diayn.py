"""DIAYN: Diversity Is All You Need (Eysenbach, Gupta, Ibarz, Levine; ICLR 2019), in one file."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch.distributions import Normal

from sb3_metra.common.arguments import FLAG
from sb3_metra.common.constructor import check_phi_kwargs
from sb3_metra.common.networks import Representation
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.skills import SkillPrior, make_prior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples

_MIN_LOG_STD = math.log(1e-6)


class DIAYNObjective(SkillObjective):
    """
    Tell the skill from the state: a discriminator q(z|s') maximises log q(z|s'), and the reward is
    log q(z|s') - log p(z). Discrete skills have a categorical q, continuous ones a Gaussian q.

    :param prior: the prior p(z)
    :param discriminator: logits of q, or its mean, a map of s'
    :param discriminator_log_std: logarithm of the Gaussian's deviation, a map of s'; ``None`` for discrete skills
    :param subtract_log_prior: see :class:`DIAYN`
    """

    def __init__(
        self,
        prior: SkillPrior,
        discriminator: Representation,
        discriminator_log_std: Representation | None = None,
        subtract_log_prior: bool = True,
    ) -> None:
        super().__init__(prior)
        self.discriminator, self.discriminator_log_std = discriminator, discriminator_log_std
        self.subtract_log_prior = subtract_log_prior

    def log_ratio(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        log q(z|s') - log p(z), or its first term alone.

        :param batch: transitions
        :return: (batch,)
        """
        output, skills = self.discriminator(batch.next_observations), batch.skills
        if self.discriminator_log_std is None:
            log_q = (output.log_softmax(dim=1) * skills).sum(dim=1)
            log_p = th.full_like(log_q, -math.log(self.prior.dim))
        else:
            std = self.discriminator_log_std(batch.next_observations).clamp(min=_MIN_LOG_STD).exp()
            log_q = Normal(output, std, validate_args=False).log_prob(skills).sum(dim=1)
            log_p = -0.5 * (skills.square() + math.log(2.0 * math.pi)).sum(dim=1)
        return log_q - log_p if self.subtract_log_prior else log_q

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        q maximises log q(z|s').

        :param batch: transitions
        :return: the loss, and what to log
        """
        log_ratio = self.log_ratio(batch)
        loss = -log_ratio.mean()
        return loss, {"discriminator_loss": loss.detach(), "log_ratio": log_ratio.detach()}

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        r(s', z) = log q(z|s') - log p(z).

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        return self.log_ratio(batch).unsqueeze(1)


class DIAYN(SkillDiscovery):
    """
    Discover skills that a discriminator tells apart by the states that they visit.

    Paper: https://arxiv.org/abs/1802.06070

    The METRA authors' DIAYN, whose skills are continuous, has ``subtract_log_prior=False``, so that skills far from 0
    are worth less wherever they lead.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: number of skills (continuous: components of a skill)
    :param discrete: one-hot skills; otherwise skills from the standard normal distribution
    :param subtract_log_prior: reward log q(z|s') - log p(z) instead of log q(z|s')
    :param discriminator_kwargs: arguments of the discriminator's networks, such as ``net_arch`` (default:
        ``[1024, 1024]``) and ``activation_fn``
    :param kwargs: SAC's and SB3's arguments, see :class:`~sb3_metra.common.sac.SkillSAC`
    """

    objective: DIAYNObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 50,
        discrete: bool = True,
        *,
        subtract_log_prior: bool = True,
        discriminator_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.subtract_log_prior = FLAG("subtract_log_prior", subtract_log_prior)
        self.discriminator_kwargs = {} if discriminator_kwargs is None else discriminator_kwargs
        super().__init__(policy, env, make_prior(skill_dim, discrete, unit_skills=False), **kwargs)

    def make_objective(self) -> DIAYNObjective:
        """A new discriminator."""
        extractor_class = self.policy.features_extractor_class
        kwargs = check_phi_kwargs(Representation, self.discriminator_kwargs, extractor_class, "discriminator_kwargs")
        discriminator = self.make_representation(**kwargs)
        log_std = None if self.skill_prior.discrete else self.make_representation(**kwargs)
        return DIAYNObjective(self.skill_prior, discriminator, log_std, self.subtract_log_prior)
