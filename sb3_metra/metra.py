"""METRA: Scalable Unsupervised RL with Metric-Aware Abstraction (Park, Rybkin, Levine; ICLR 2024), in one file."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_metra.common.dual import DualVariable
from sb3_metra.common.networks import Representation, check_finite
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class METRAObjective(SkillObjective):
    """
    Maximise E[(phi(s') - phi(s)) . z] subject to ||phi(s') - phi(s)|| <= 1 for consecutive s, s' (paper, equation 8),
    by dual gradient descent on lambda with slack epsilon (paper, algorithm 1).

    :param prior: the prior p(z)
    :param phi: the map phi: S -> R^dim
    :param dual_lambda: initial lambda
    :param dual_slack: epsilon
    :param constraint_norm: squared norm in the constraint: ``"sum"`` over the dimensions of phi, as in the paper, or
        their ``"mean"``, as in the authors' code, which allows sqrt(dim) times the distance
    """

    def __init__(
        self,
        prior: SkillPrior,
        phi: Representation,
        dual_lambda: float = 30.0,
        dual_slack: float = 1e-3,
        constraint_norm: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(prior)
        if constraint_norm not in ("sum", "mean"):
            raise ValueError(f'constraint_norm must be "sum" or "mean", got {constraint_norm!r}')
        if not np.isfinite(dual_slack) or dual_slack < 0:
            raise ValueError(f"dual_slack must be a finite number of at least 0, got {dual_slack!r}")
        self.phi = phi
        self.dual = DualVariable(dual_lambda, name="dual_lambda")
        self.dual_slack = dual_slack
        self.constraint_norm = constraint_norm

    def loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        phi maximises dphi . z + lambda min(epsilon, 1 - ||dphi||^2), lambda minimises lambda min(epsilon, ...).

        :param batch: transitions
        :return: the sum of both losses, whose gradients do not mix, and what to log
        """
        displacement = self.phi.displacement(batch.observations, batch.next_observations)
        alignment = (displacement * self.prior.embed(batch.skills)).sum(dim=1)
        squares = displacement.square()
        squared_norm = squares.sum(dim=1) if self.constraint_norm == "sum" else squares.mean(dim=1)
        slack = (1.0 - squared_norm).clamp(max=self.dual_slack)
        phi_loss = -(alignment + self.dual.value * slack).mean()
        dual_loss = self.dual.loss(slack)
        info = {
            "phi_loss": phi_loss.detach(),
            "dual_loss": dual_loss.detach(),
            "dual_lambda": self.dual.value,
            "alignment": alignment.detach(),
            "constraint_slack": slack.detach(),
            "constraint_violation": (slack.detach() < 0).float(),
            "displacement_norm": displacement.detach().norm(dim=1),
        }
        return phi_loss + dual_loss, info

    @th.no_grad()
    def reward(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        r(s, z, s') = (phi(s') - phi(s)) . z (paper, equation 6).

        :param batch: transitions
        :return: (batch, 1), without gradient
        """
        displacement = self.phi.displacement(batch.observations, batch.next_observations)
        return (displacement * self.prior.embed(batch.skills)).sum(dim=1, keepdim=True)


class METRA(SkillDiscovery):
    """
    Discover skills that cover the state space, measured by the number of environment steps between states.

    Paper: https://arxiv.org/abs/2310.08887

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        :class:`~sb3_metra.common.policies.SkillPolicy`
    :param env: environment with a Box action space, or its registered name; ``None`` only for loading
    :param skill_dim: components of a skill (discrete: the number of skills)
    :param discrete: one-hot skills instead of continuous ones
    :param dual_lambda: initial multiplier lambda of the constraint
    :param dual_slack: slack epsilon of the constraint
    :param constraint_norm: ``"sum"`` as in the paper or ``"mean"`` as in the authors' code, see
        :class:`METRAObjective`
    :param phi_kwargs: arguments of phi, such as ``net_arch`` (default: ``[1024, 1024]``) and ``activation_fn``
    :param kwargs: SAC's and SB3's arguments, see :class:`~sb3_metra.common.skill_discovery.SkillDiscovery`
    """

    objective: METRAObjective

    def __init__(
        self,
        policy: str | type[SkillPolicy],
        env: GymEnv | str | None,
        skill_dim: int = 2,
        discrete: bool = False,
        dual_lambda: float = 30.0,
        dual_slack: float = 1e-3,
        *,
        constraint_norm: Literal["sum", "mean"] = "sum",
        phi_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.dual_lambda = dual_lambda
        self.dual_slack = dual_slack
        self.constraint_norm = constraint_norm
        self.phi_kwargs = {} if phi_kwargs is None else phi_kwargs
        super().__init__(policy, env, skill_dim, discrete, **kwargs)

    def make_objective(self) -> METRAObjective:
        """A new phi with its multiplier."""
        phi = self.make_representation(**self.phi_kwargs)
        return METRAObjective(self.skill_prior, phi, self.dual_lambda, self.dual_slack, self.constraint_norm)

    def encode(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        phi of observations.

        :param observation: one observation or a batch of n
        :return: (n, skill_dim), without the first axis for one observation
        :raises ValueError: where the observation is not finite
        """
        check_finite(observation)
        phi = self.objective.phi
        obs, vectorized = phi.obs_to_tensor(observation)
        with th.no_grad():
            latents = phi(obs).cpu().numpy()
        return latents if vectorized else latents[0]
