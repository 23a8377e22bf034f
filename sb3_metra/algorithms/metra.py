"""METRA: Scalable Unsupervised RL with Metric-Aware Abstraction (Park, Rybkin, Levine; ICLR 2024), in one file."""

from __future__ import annotations

from typing import Any, Literal

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.dual import DualConstraint
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation import RepresentationObjective
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class METRAObjective(RepresentationObjective):
    """
    Maximise E[(phi(s') - phi(s)) . z] subject to ||phi(s') - phi(s)|| <= 1 for consecutive s, s' (paper, equation 8),
    by dual gradient descent on lambda with slack epsilon (paper, algorithm 1).

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param dual_lambda: initial lambda
    :param dual_slack: epsilon
    :param constraint_norm: squared norm in the constraint, see :class:`~sb3_metra.common.dual.DualConstraint`
    """

    def __init__(
        self,
        prior: SkillPrior,
        phi: Representation,
        dual_lambda: float = 30.0,
        dual_slack: float = 1e-3,
        constraint_norm: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(prior, phi)
        self.dual = DualConstraint(dual_lambda, dual_slack, constraint_norm)

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises dphi . z + lambda min(epsilon, 1 - ||dphi||^2), lambda minimises lambda min(epsilon, ...).

        :param batch: transitions
        :return: the sum of both losses, whose gradients do not mix, and what to log
        """
        displacement, alignment, info = self.align(batch)
        penalty, dual_loss, dual_info = self.dual(displacement)
        phi_loss = -(alignment + penalty).mean()
        return phi_loss + dual_loss, {"phi_loss": phi_loss.detach()} | dual_info | info


class METRA(RepresentationDiscovery):
    """
    Discover skills that cover the state space, measured by the number of environment steps between states.

    Paper: https://arxiv.org/abs/2310.08887

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param dual_lambda: initial multiplier lambda of the constraint
    :param dual_slack: slack epsilon of the constraint
    :param constraint_norm: ``"sum"`` as in the paper or ``"mean"`` as in the authors' code, see
        :class:`~sb3_metra.common.dual.DualConstraint`
    :param kwargs: arguments of phi, SAC and SB3, see
        :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`
    """

    objective: METRAObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        *,
        dual_lambda: float = 30.0,
        dual_slack: float = 1e-3,
        constraint_norm: Literal["sum", "mean"] = "sum",
        **kwargs: Any,
    ) -> None:
        self.dual_lambda = dual_lambda
        self.dual_slack = dual_slack
        self.constraint_norm = constraint_norm
        super().__init__(policy, env, skill_dim, discrete, **kwargs)

    def make_objective(self) -> METRAObjective:
        """A new phi with its multiplier."""
        phi = self.make_representation()
        return METRAObjective(self.skill_prior, phi, self.dual_lambda, self.dual_slack, self.constraint_norm)
