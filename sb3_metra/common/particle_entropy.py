"""A reward for states that lie far from others: the particle estimate of entropy."""

from __future__ import annotations

import torch as th
from torch import nn

_MARGIN = 5e-4  # of a normalised distance that counts as none


class RunningMoments(nn.Module):
    """Mean and variance of all numbers so far, as SB3's ``RunningMeanStd``, but without leaving the device."""

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("var", 1.0), ("count", 1e-4)):
            self.register_buffer(name, th.full((1,), value))

    @th.no_grad()
    def update(self, values: th.Tensor) -> None:
        """
        Take numbers in.

        :param values: two or more, any shape
        """
        n = values.numel()
        total = self.count + n
        delta = values.mean() - self.mean
        squares = self.var * self.count + values.var() * n + delta.square() * self.count * n / total
        self.mean.add_(delta * n / total)
        self.var.copy_(squares / total)
        self.count.copy_(total)


class ParticleEntropy(nn.Module):
    """
    log(1 + mean_k d_k / sigma) of a point; d are the distances to its k nearest neighbours and sigma is the
    running deviation of all such distances (APT paper, arXiv 2103.04551).

    :param n_neighbors: k
    :param divide_by_variance: divide by sigma^2 instead of sigma, as the published code of CIC does
    """

    def __init__(self, n_neighbors: int, divide_by_variance: bool = False) -> None:
        super().__init__()
        self.n_neighbors, self.divide_by_variance = n_neighbors, divide_by_variance
        self.moments = RunningMoments()

    def distances(self, points: th.Tensor, others: th.Tensor) -> th.Tensor:
        """
        The distances to the nearest neighbours.

        :param points: (n, dim)
        :param others: (m, dim), at least k of them
        :return: (n, k), ascending
        """
        distances = th.cdist(points.float(), others.float(), compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(self.n_neighbors, dim=1, largest=False).values

    @th.no_grad()
    def forward(self, points: th.Tensor, others: th.Tensor) -> th.Tensor:
        """
        The reward of each point. Each call takes its distances into the running deviation first.

        :param points: (n, dim)
        :param others: (m, dim), at least k of them
        :return: (n, 1)
        """
        distances = self.distances(points, others)
        self.moments.update(distances)
        scale = self.moments.var if self.divide_by_variance else self.moments.var.sqrt()
        return (distances / scale - _MARGIN).relu().mean(dim=1, keepdim=True).log1p()
