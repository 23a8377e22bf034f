"""DADS: Dynamics-Aware Unsupervised Discovery of Skills (Sharma et al.; ICLR 2020), in one file."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch import nn

from sb3_metra.common.arguments import FLAG, integer
from sb3_metra.common.constructor import check_network_kwargs
from sb3_metra.common.networks import flatten_state, make_mlp, state_dim
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SkillPrior, UniformPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples

_MAX_LOG_RATIO, _MOMENTUM = 50.0, 0.01  # of likelihoods under two skills; of the running statistics


class DADSObjective(SkillObjective):
    """
    Predict what a skill does: q(s' - s | s, z) learns transitions, and rewards those that are likely only under their
    own skill. States and differences are normalised by the batch in the loss, by running statistics in the reward.

    :param prior: the prior p(z)
    :param dim: components of a state
    :param n_alternatives: L, other skills to compare each transition's own with
    :param skip_last_steps: see :class:`DADS`
    :param kwargs: arguments of :func:`~sb3_metra.common.networks.make_mlp`
    """

    def __init__(
        self, prior: SkillPrior, dim: int, n_alternatives: int = 100, skip_last_steps: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(prior)
        self.n_alternatives, self.skip_last_steps = integer(1)("n_alternatives", n_alternatives), skip_last_steps
        self.state_norm, self.difference_norm = (
            nn.BatchNorm1d(dim, momentum=_MOMENTUM, affine=False) for _ in range(2)
        )
        self.dynamics = make_mlp(dim + prior.dim, dim, **kwargs)

    def log_q(self, batch: SkillReplayBufferSamples, skills: th.Tensor) -> th.Tensor:
        """
        log q(s' - s | s, z), a Gaussian of deviation 1 in normalised units.

        :param batch: transitions
        :param skills: z, (..., batch, skill_dim)
        :return: (..., batch)
        """
        state, next_state = flatten_state(batch.observations), flatten_state(batch.next_observations)
        given = self.state_norm(state).expand(*skills.shape[:-1], -1)
        mean = self.dynamics(th.cat([given, skills], dim=-1))
        error = self.difference_norm(next_state - state) - mean
        return -0.5 * (error.square() + math.log(2.0 * math.pi)).sum(dim=-1)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        q maximises log q(s' - s | s, z).

        :param batch: transitions
        :return: the loss, and what to log
        """
        log_q = self.log_q(batch, batch.skills)
        weights = 1.0 - batch.dones.squeeze(1) if self.skip_last_steps else th.ones_like(log_q)
        loss = -(log_q * weights).sum() / (weights.sum() + 1e-12)
        return loss, {"dynamics_loss": loss.detach(), "log_q": log_q.detach()}

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        r(s, z, s') = log(L + 1) - log(1 + sum_l q(s' | s, z_l) / q(s' | s, z)), z_l fresh for each transition.

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        n, dim = batch.skills.shape
        others = self.prior.draw(self.n_alternatives * n, batch.skills.device).view(-1, n, dim)
        log_ratios = self.log_q(batch, others) - self.log_q(batch, batch.skills)
        ratios = log_ratios.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
        return (math.log(self.n_alternatives + 1) - ratios.sum(dim=0).log1p()).unsqueeze(1)


class DADS(SkillDiscovery):
    """
    Discover skills whose effects can be predicted (paper: https://arxiv.org/abs/1907.01657). States only.

    The METRA authors' DADS has ``skip_last_steps=True``; they store the last step of an episode as terminal.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`; observations without images
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param gaussian_skills: continuous skills from the standard normal distribution instead of uniform ones in [-1, 1]
    :param n_alternatives: other skills to compare each transition's own with; the reward costs one pass for each
    :param skip_last_steps: learn nothing from terminal transitions
    :param dynamics_kwargs: arguments of q's network, ``net_arch`` (default: ``[1024, 1024]``) and ``activation_fn``
    :param kwargs: SAC's and SB3's arguments, see :class:`~sb3_metra.common.sac.SkillSAC`
    """

    objective: DADSObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        gaussian_skills: bool = False,
        n_alternatives: int = 100,
        skip_last_steps: bool = False,
        dynamics_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.n_alternatives, self.skip_last_steps = n_alternatives, FLAG("skip_last_steps", skip_last_steps)
        self.dynamics_kwargs = check_network_kwargs("dynamics_kwargs", make_mlp, dynamics_kwargs)
        discrete, gaussian = FLAG("discrete", discrete), FLAG("gaussian_skills", gaussian_skills)
        kind = OneHotPrior if discrete else GaussianPrior if gaussian else UniformPrior
        super().__init__(policy, env, kind(skill_dim), **kwargs)

    def make_objective(self) -> DADSObjective:
        """New dynamics."""
        settings = (state_dim(self.observation_space, "DADS"), self.n_alternatives, self.skip_last_steps)
        return DADSObjective(self.skill_prior, *settings, **self.dynamics_kwargs)
