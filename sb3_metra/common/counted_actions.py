"""Actions that can be counted: each has a number, which is where actor and critics have its output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

COUNTED = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Kinds of spaces whose actions can be counted."""

MAX_ACTIONS = 1_024
"""The most discrete actions: actor and critics have an output for each."""


def reason_against(space: Any) -> str | None:
    """
    Say why discrete actions cannot be learnt.

    :param space: a space of :data:`COUNTED`
    :return: the end of a sentence; ``None``: they can
    """
    if len(space.shape) > 1:
        return "it must have one axis: let the environment reshape its actions"
    sizes = _sizes(space)
    if (n := math.prod(sizes)) > MAX_ACTIONS:
        return (
            f"actor and critics have an output for each of its {n} combinations: let the environment take fewer, or "
            "take a Box of floats and round them itself"
        )
    return None if n > 1 else "there is nothing to choose from"


class CountedActions:
    """
    Discrete actions with numbers from 0 on; those of several components are counted as the digits of a number are.

    :param space: a Discrete, MultiDiscrete or MultiBinary
    """

    def __init__(self, space: spaces.Space) -> None:
        self.sizes = _sizes(space)
        self.starts = np.broadcast_to(getattr(space, "start", 0), len(self.sizes)).tolist()

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def numbers(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: of the space, (batch, components)
        :return: their numbers, (batch,)
        """
        numbers = th.zeros_like(actions[:, 0], dtype=th.int64)
        for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True)):
            numbers = numbers * size + (actions[:, i] - start)
        return numbers

    def actions(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: of actions, (batch,); -1 for none
        :return: actions, (batch, components), each component one below the least for none
        """
        components, rest = [], numbers
        for size, start in zip(reversed(self.sizes), reversed(self.starts), strict=True):
            components.append(th.where(numbers < 0, -1, rest % size) + start)
            rest = rest // size
        return th.stack(components[::-1], dim=1)


def _sizes(space: Any) -> list[int]:
    """How many values each component of a discrete action has."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [2] * space.shape[0] if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()
