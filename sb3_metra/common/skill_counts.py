"""Which skills are rare: counts in the cells that random hyperplanes cut the space of skills into."""

from __future__ import annotations

import torch as th
from torch import nn

from sb3_metra.common.arguments import number

_PLANES, _DECAY = 8, 0.99


class SkillCounts(nn.Module):
    """
    How often skills fall into each cell, beside how often p(z) does: a moving average over batches.

    :param dim: components of a skill
    :param keep_threshold: skills are rare if they make up less than this share of what lies in their cell; 0.5 is as
        often as p(z) has them
    :raises ValueError: if the threshold is no number from 0 up
    """

    hyperplanes: th.Tensor
    shares: th.Tensor

    def __init__(self, dim: int, keep_threshold: float) -> None:
        super().__init__()
        self.keep_threshold = number(0)("keep_threshold", keep_threshold)
        self.register_buffer("hyperplanes", th.randn(dim, _PLANES))
        self.register_buffer("shares", th.full((2, 2**_PLANES), 2.0**-_PLANES))  # of the skills, and of p(z)

    @th.no_grad()
    def update(self, skills: th.Tensor, drawn: th.Tensor) -> None:
        """
        Count.

        :param skills: (batch, dim)
        :param drawn: draws from p(z), (batch, dim)
        """
        new = th.stack([self._cells(skills).mean(dim=0), self._cells(drawn).mean(dim=0)])
        self.shares.lerp_(new, 1.0 - _DECAY)

    def are_rare(self, skills: th.Tensor) -> th.Tensor:
        """
        Whether the counted skills are rare in the cell of each given skill.

        :param skills: (batch, dim)
        :return: (batch,), boolean
        """
        share = self.shares[0] / self.shares.sum(dim=0).clamp(min=1e-12)
        return self._cells(skills) @ share < self.keep_threshold

    def _cells(self, skills: th.Tensor) -> th.Tensor:
        """On which side of each hyperplane skills lie, as one-hots, (batch, 2^planes)."""
        sides = (skills @ self.hyperplanes > 0).long()
        powers = th.arange(_PLANES, device=skills.device)
        return th.eye(2**_PLANES, device=skills.device)[(sides << powers).sum(dim=1)]
