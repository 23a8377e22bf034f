"""GenDa: Learning Generalizable Skill Policy with Data-Efficient Unsupervised RL (Park et al.; ICML 2026)."""

from __future__ import annotations

import copy
from typing import Any

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.algorithms.metra import METRA, METRAObjective
from sb3_metra.common.arguments import integer, number, optional
from sb3_metra.common.extractors import Bottleneck
from sb3_metra.common.networks import Representation
from sb3_metra.common.optimization import move_average
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skill_counts import SkillCounts
from sb3_metra.common.skills import OneHotPrior, SkillPrior, SpherePrior
from sb3_metra.common.type_aliases import Info, Observations, SkillReplayBufferSamples


class GenDaObjective(METRAObjective):
    """METRA's objective on relabelled skills, which say where an episode went; parameters as GenDa's."""

    def __init__(
        self,
        prior: SkillPrior,
        phi: Representation,
        bottleneck: Bottleneck | None = None,
        *,
        uniformity_coef: float = 1.0,
        phi_tau: float = 0.005,
        keep_threshold: float = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(prior, phi, **kwargs)
        if not isinstance(prior, (SpherePrior, OneHotPrior)):
            raise ValueError(f"skills must be of norm 1 or discrete for GenDa, which relabels them, got {prior}")
        self.phi_average = copy.deepcopy(phi).requires_grad_(False)
        self.uniformity_coef = number(0)("uniformity_coef", uniformity_coef)
        self.phi_tau = number(0, 1)("phi_tau", phi_tau)
        self.bottleneck, self.counts = bottleneck, SkillCounts(prior.dim, keep_threshold)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """METRA's loss with each episode's own direction as its skill, plus how alike those directions are."""
        assert batch.episode is not None, "transitions must come with their episodes"
        move_average(self.phi_average.parameters(), self.phi.parameters(), self.phi_tau)
        skills = self.skill_of(batch.episode.first, batch.episode.last)
        loss, info = super().loss(batch._replace(skills=skills))
        self.counts.update(skills, self.prior.draw(len(skills), skills.device))
        info |= {"kept_skills": self.counts.are_rare(batch.skills).float()}
        if not self.prior.discrete:  # the direction of a discrete skill has no gradient
            directions = F.normalize(self.phi(batch.episode.last) - self.phi(batch.episode.first), dim=1)
            uniformity = (directions @ directions.T).fill_diagonal_(-th.inf).logsumexp(dim=1).mean()
            loss, info["uniformity_loss"] = loss + self.uniformity_coef * uniformity, uniformity.detach()
        if self.bottleneck is not None:
            surprise = self.bottleneck.loss(batch.observations, self.phi(batch.observations).detach())
            loss, info["bottleneck_loss"] = loss + surprise, surprise.detach()
        return loss, info

    @th.no_grad()
    def relabel(self, batch: SkillReplayBufferSamples) -> SkillReplayBufferSamples:
        """The policy's skills: the rollout's if few go that way, else where the episode or its next steps went."""
        assert batch.episode is not None
        whole = self.skill_of(batch.episode.first, batch.episode.last)
        ahead = self.skill_of(batch.observations, batch.episode.ahead)
        relabelled = th.where(th.rand_like(whole[:, :1]) < 0.5, whole, ahead)
        rare = self.counts.are_rare(batch.skills)
        return batch._replace(skills=th.where(rare[:, None], batch.skills, relabelled))

    @th.no_grad()
    def skill_of(self, start: Observations, end: Observations) -> th.Tensor:
        """The skill that leads from one observation to another by the moving average of phi, (batch, dim)."""
        direction = self.phi_average.displacement(start, end)
        if self.prior.discrete:
            return th.eye(self.prior.dim, device=direction.device)[direction.argmax(dim=1)]
        return F.normalize(direction, dim=1)


class GenDa(METRA):
    """
    METRA that relabels skills, spreads the directions of episodes, and can hide from the actor what phi knows.

    Paper: https://arxiv.org/abs/2607.00392. It has the bottleneck and LayerNorm in the critics; here both are off.

    :param policy: as for METRA, like ``env``, ``skill_dim`` and ``discrete``
    :param uniformity_coef: weight of the term that spreads the directions of episodes
    :param phi_tau: weight of phi in its moving average, by which skills are relabelled
    :param keep_threshold: the policy keeps the rollout's skill if relabelled skills make up less than this share of the
        skills near it, the others being fresh draws
    :param ahead: largest number of steps ahead for the direction of the next steps
    :param bottleneck_dim: components of the actor's code; ``None``: the actor sees the observation
    :param kwargs: further arguments of :class:`~sb3_metra.algorithms.metra.METRA`
    """

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        uniformity_coef: float = 1.0,
        phi_tau: float = 0.005,
        keep_threshold: float = 0.4,
        ahead: int = 5,
        bottleneck_dim: int | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uniformity_coef, self.phi_tau, self.keep_threshold = uniformity_coef, phi_tau, keep_threshold
        self.ahead, self.bottleneck_dim = ahead, optional(integer(1))("bottleneck_dim", bottleneck_dim)
        if self.bottleneck_dim is not None:
            policy_kwargs = Bottleneck.policy_kwargs(policy_kwargs, self.bottleneck_dim, skill_dim)
        super().__init__(policy, env, skill_dim, discrete, policy_kwargs=policy_kwargs, **kwargs)

    def make_objective(self) -> GenDaObjective:
        """A new phi with its moving average, its multiplier and the actor's bottleneck."""
        self.ahead = integer(1)("ahead", self.ahead)
        bottleneck = next((module for module in self.actor.modules() if isinstance(module, Bottleneck)), None)
        names = ("uniformity_coef", "phi_tau", "keep_threshold", "dual_lambda", "dual_slack", "constraint_norm")
        kwargs = {name: getattr(self, name) for name in names}
        return GenDaObjective(self.skill_prior, self.make_representation(), bottleneck, **kwargs)

    def sample(self, size: int) -> SkillReplayBufferSamples:
        """Transitions with their episodes."""
        assert self.replay_buffer is not None
        return self.replay_buffer.sample_with_episodes(size, self._vec_normalize_env, ahead=(1, self.ahead))
