"""Critics that learn the sum of future features instead of one value: successor features."""

from __future__ import annotations

import torch as th

from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.skills import SkillPrior
from sb3_metra.common.type_aliases import Info, SkillReplayBufferSamples


class SuccessorFeatures(RepresentationDiscovery):
    """
    An algorithm whose reward is f(s, s') . z, and whose critics learn psi(s, a, z), the discounted sum of the features
    f, so that Q(s, a, z) = psi(s, a, z) . z (VISR paper, arXiv 1906.05030; CSF paper, arXiv 2412.08021).

    Its objective's ``reward`` returns f. As in the authors' code, the critics learn no entropy, and their losses are
    not halved.

    Parameters: see :class:`~sb3_metra.common.representation_discovery.RepresentationDiscovery`.
    """

    @staticmethod
    def critic_dim(prior: SkillPrior) -> int:
        """
        One output for each component of a skill.

        :param prior: p(z)
        """
        return prior.dim

    def q_values(self, values: tuple[th.Tensor, ...], skills: th.Tensor) -> th.Tensor:
        """
        Q_i(s, a, z) = psi_i(s, a, z) . z.

        :param values: psi_i, each (batch, skill_dim), or (n_actions, batch, skill_dim)
        :param skills: (batch, skill_dim)
        :return: (batch, n_critics), or (n_actions, batch, n_critics)
        """
        return (th.stack(values, dim=-2) * self.skill_prior.embed(skills).unsqueeze(1)).sum(dim=-1)

    def next_value(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        """
        E[psi_k(s', a', z)] of the target critic k with the smaller psi_k . z, as a whole, over one sampled a', or over
        all.

        :param batch: transitions
        :return: (batch, skill_dim)
        """
        following = self.policy.condition(batch.next_observations, batch.skills)
        actions, log_prob = self.actor.action_log_prob(following)
        values = self.critic_target(following, actions)
        least = self.q_values(values, batch.skills).argmin(dim=-1)[..., None, None]
        index = least.expand(*least.shape[:-1], self.skill_prior.dim)
        return self.actor.expectation(th.stack(values, dim=-2).gather(-2, index).squeeze(-2), log_prob)

    def critic_loss(self, batch: SkillReplayBufferSamples) -> tuple[th.Tensor, Info]:
        """
        The mean squared error of each psi towards f + gamma (1 - d) psi_k(s', a', z).

        :param batch: transitions with f as their rewards
        :return: the sum over critics, and what to log
        """
        loss, info = super().critic_loss(batch)
        target = info["q_target"]
        q_target = self.q_values((target,), batch.skills)
        return 2.0 * loss, {"critic_loss": 2.0 * info["critic_loss"], "sf_target": target, "q_target": q_target}
