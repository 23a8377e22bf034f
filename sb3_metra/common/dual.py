"""A Lagrange multiplier kept as its logarithm: METRA's lambda and SAC's entropy coefficient are both one."""

from __future__ import annotations

import math

import torch as th
from torch import nn


class DualVariable(nn.Module):
    """
    A positive multiplier that grows while its constraint is violated and shrinks while there is slack.

    :param value: initial value, greater than 0 (0 is allowed for one that is not learnt)
    :param learnable: whether gradient descent changes it
    :param name: the argument to name in an error
    """

    log_value: th.Tensor

    def __init__(self, value: float, learnable: bool = True, name: str = "value") -> None:
        super().__init__()
        if not math.isfinite(value) or value < 0 or (learnable and value == 0):
            raise ValueError(f"{name} must be a finite number greater than 0, got {value!r}")
        self.learnable = learnable
        log_value = th.tensor([value], dtype=th.float32).log()
        if learnable:
            self.log_value = nn.Parameter(log_value)
        else:
            self.register_buffer("log_value", log_value)

    @classmethod
    def parse(cls, text: str | float, name: str = "value") -> DualVariable:
        """
        A multiplier in SB3's syntax for the entropy coefficient.

        :param text: a number that stays, ``"auto"`` to learn it from 1, or ``"auto_0.01"`` to learn it from 0.01
        :param name: the argument to name in an error
        """
        learnable = str(text).startswith("auto")
        number = str(text).removeprefix("auto").removeprefix("_")
        try:
            value = 1.0 if learnable and not number else float(number)
        except ValueError:
            raise ValueError(f'{name} must be a number, "auto" or "auto_0.01", got {text!r}') from None
        return cls(value, learnable, name)

    @property
    def value(self) -> th.Tensor:
        """The multiplier, (1,), without gradient."""
        return self.log_value.detach().exp()

    def loss(self, slack: th.Tensor) -> th.Tensor:
        """
        What the multiplier minimises: its logarithm times the slack, averaged over the batch.

        :param slack: how far each sample is from violating its constraint; negative where it does, any shape
        :return: scalar with a gradient to this variable alone; zero for one that is not learnt
        """
        mean = slack.detach().mean()
        return (self.log_value * mean).sum() if self.learnable else th.zeros_like(mean)
