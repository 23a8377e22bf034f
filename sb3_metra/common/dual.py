"""Lagrange multipliers kept as their logarithm: METRA's lambda and SAC's entropy coefficient are both one."""

from __future__ import annotations

from typing import Literal

import torch as th
from torch import nn

from sb3_metra.common.arguments import POSITIVE, choice, number
from sb3_metra.common.type_aliases import Info


class DualVariable(nn.Module):
    """
    A positive multiplier that grows while its constraint is violated and shrinks while there is slack.

    :param value: initial value, greater than 0 (0 is allowed for one that is not learnt)
    :param learnable: whether gradient descent changes it
    :param name: the argument that its value comes from
    """

    log_value: th.Tensor

    def __init__(self, value: str | float, learnable: bool = True, name: str = "value") -> None:
        super().__init__()
        start = (POSITIVE if learnable else number(0))(name, value)
        self.learnable, self.name = learnable, name
        log_value = th.tensor([start], dtype=th.float32).log()
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
        learnable = isinstance(text, str) and text.startswith("auto")
        digits = text.removeprefix("auto_") if isinstance(text, str) else text
        try:
            value = 1.0 if text == "auto" else float(digits) if isinstance(digits, str) else digits
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

        :param slack: how far each sample is from violating its constraint, negative if it does, any shape
        :return: scalar with a gradient to this variable alone; zero for one that is not learnt
        """
        mean = slack.detach().mean()
        return (self.log_value * mean).sum() if self.learnable else th.zeros_like(mean)


class DualConstraint(DualVariable):
    """
    A multiplier lambda for the constraint ||dphi||^2 <= bound, with slack epsilon (METRA paper, algorithm 1).

    With bound 1 it is METRA's constraint; with a learnt distance between s and s' it is CSD's.

    :param value: initial lambda
    :param slack: epsilon, the most that a transition within its bound counts
    :param norm: squared norm: ``"sum"`` over the dimensions of phi, as in the paper, or their ``"mean"``, as in the
        authors' code, which allows sqrt(dim) times the distance
    """

    def __init__(self, value: float, slack: float, norm: Literal["sum", "mean"] = "sum") -> None:
        super().__init__(value, name="dual_lambda")
        norm = choice("sum", "mean")("constraint_norm", norm)
        self.slack, self.norm = number(0)("dual_slack", slack), norm

    def forward(self, displacement: th.Tensor, bound: float | th.Tensor = 1.0) -> tuple[th.Tensor, th.Tensor, Info]:
        """
        What phi maximises for the constraint, and what lambda minimises.

        :param displacement: dphi, (batch, dim)
        :param bound: the largest squared norm that is allowed, a number or (batch,)
        :return: lambda min(epsilon, bound - ||dphi||^2), (batch,), without gradient to lambda; the loss of lambda; both
            to log
        """
        squares = displacement.square()
        squared_norm = squares.sum(dim=1) if self.norm == "sum" else squares.mean(dim=1)
        slack = (bound - squared_norm).clamp(max=self.slack)
        loss = self.loss(slack)
        info = {
            "dual_loss": loss.detach(),
            "dual_lambda": self.value,
            "constraint_slack": slack.detach(),
            "constraint_violation": (slack.detach() < 0).float(),
        }
        return self.value * slack, loss, info
