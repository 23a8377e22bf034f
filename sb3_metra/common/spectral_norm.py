"""Layers whose weight is divided by its largest singular value, so that they stretch no distance."""

from __future__ import annotations

import torch as th
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

_FIRST_ITERATIONS = 15


class SpectralNorm(nn.Module):
    """
    W / sigma, where sigma = u . W v follows W's largest singular value by one power iteration each time in training
    mode. To the bit what ``torch.nn.utils.spectral_norm`` computes, which cannot be copied and begins with random u
    and v; PyTorch's newer parametrization iterates u before v and rounds otherwise.

    :param weight: the layer's weight
    """

    def __init__(self, weight: th.Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.u: th.Tensor
        self.v: th.Tensor
        for name, size in (("u", matrix.shape[0]), ("v", matrix.shape[1])):
            self.register_buffer(name, F.normalize(th.randn(size, device=matrix.device), dim=0))
        for _ in range(_FIRST_ITERATIONS):
            self.iterate(matrix)

    @th.no_grad()
    def iterate(self, matrix: th.Tensor) -> None:
        """
        Take a power iteration.

        :param matrix: W, (outputs, inputs)
        """
        self.v.copy_(F.normalize(th.mv(matrix.t(), self.u), dim=0, eps=1e-12))
        self.u.copy_(F.normalize(th.mv(matrix, self.v), dim=0, eps=1e-12))

    def forward(self, weight: th.Tensor) -> th.Tensor:
        with th.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self.iterate(matrix)
            # copies, because a second pass before the backward one changes u and v
            return weight / th.dot(self.u.clone(), th.mv(matrix, self.v.clone()))


def normalize_spectrally(module: nn.Module) -> None:
    """
    Give each linear layer and convolution its spectral norm.

    :param module: a container of layers, changed in place
    """
    for layer in list(module.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
