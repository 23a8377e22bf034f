"""CSD: Controllability-Aware Unsupervised Skill Discovery (Park, Lee, Lee, Abbeel; ICML 2023), in one file."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from torch.distributions import Normal

from sb3_metra.common.dual import DualConstraint
from sb3_metra.common.networks import Representation, flatten_state, state_dim
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples

_LOG_STD = math.log(1e6)  # the deviation lies between 1e-6 and 1e6


class CSDObjective(RepresentationObjective):
    """
    Maximise E[(phi(s') - phi(s)) . z] subject to ||phi(s') - phi(s)||^2 <= c(s, s'), where c is
    large if a density model q(s' | s) of all transitions is surprised by s'.

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param mean: the mean of s' - s under q, a map of s
    :param log_std: the logarithm of its deviation, a map of s
    :param dual_lambda: initial lambda
    :param dual_slack: epsilon
    :param constraint_norm: squared norm in the constraint, see :class:`~sb3_metra.common.dual.DualConstraint`
    """

    def __init__(
        self,
        prior: SkillPrior,
        phi: Representation,
        mean: Representation,
        log_std: Representation,
        dual_lambda: float = 3000.0,
        dual_slack: float = 1e-6,
        constraint_norm: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(prior, phi)
        self.mean, self.log_std = mean, log_std
        self.dual = DualConstraint(dual_lambda, dual_slack, constraint_norm)

    def distance(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, th.Tensor]:
        """
        c(s, s') = mean_j w_j (s' - s - mean(s))_j^2, where w_j = (g / std_j)^2 and g is the geometric mean of the stds.

        :param batch: transitions
        :return: c, (batch,), without gradient; and the loss of q, the mean of -log q(s' | s)
        """
        mean = self.mean(batch.observations)
        log_std = self.log_std(batch.observations).clamp(-_LOG_STD, _LOG_STD)
        difference = flatten_state(batch.next_observations) - flatten_state(batch.observations)
        log_q = Normal(mean, log_std.exp(), validate_args=False).log_prob(difference).sum(dim=1)
        weights = (2.0 * (log_std.mean(dim=1, keepdim=True) - log_std)).exp()
        return (weights * (difference - mean).square()).mean(dim=1).detach(), -log_q.mean()

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises dphi . z + lambda min(epsilon, c - ||dphi||^2), lambda minimises lambda min(epsilon, ...), and q
        the mean of -log q(s' | s).

        :param batch: transitions
        :return: the sum of the losses, whose gradients do not mix, and what to log
        """
        displacement, alignment, info = self.align(batch)
        distance, distance_loss = self.distance(batch)
        penalty, dual_loss, dual_info = self.dual(displacement, distance)
        phi_loss = -(alignment + penalty).mean()
        losses = {"phi_loss": phi_loss.detach(), "distance_loss": distance_loss.detach()}
        info |= losses | dual_info | {"constraint_distance": distance}
        return phi_loss + dual_loss + distance_loss, info


class CSD(RepresentationDiscovery):
    """
    Discover skills that do what is hard to do, measured by how rare a change of the state is.

    Paper: https://arxiv.org/abs/2302.05103

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`; observations without images
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param dual_lambda: initial multiplier lambda of the constraint
    :param dual_slack: slack epsilon of the constraint
    :param constraint_norm: ``"sum"`` as in the paper or ``"mean"`` as in the authors' code, see
        :class:`~sb3_metra.common.dual.DualConstraint`
    :param kwargs: arguments of phi, which the networks of q share, and of SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    """

    objective: CSDObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        dual_lambda: float = 3000.0,
        dual_slack: float = 1e-6,
        constraint_norm: Literal["sum", "mean"] = "sum",
        **kwargs: Any,
    ) -> None:
        self.dual_lambda, self.dual_slack, self.constraint_norm = dual_lambda, dual_slack, constraint_norm
        super().__init__(policy, env, skill_dim, discrete, **kwargs)

    def make_objective(self) -> CSDObjective:
        """A new phi with its multiplier and its distance."""
        dim = state_dim(self.observation_space, "CSD")
        phi, mean, log_std = (self.make_representation(n) for n in (self.skill_prior.dim, dim, dim))
        constraint = (self.dual_lambda, self.dual_slack, self.constraint_norm)
        return CSDObjective(self.skill_prior, phi, mean, log_std, *constraint)
