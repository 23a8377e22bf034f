"""Checks of the arguments that every algorithm of this package has, before anything is built."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_metra.common.buffers import SkillReplayBuffer


def check_arguments(model: Any) -> None:
    """
    Refuse numbers that cannot work.

    :param model: a :class:`~sb3_metra.common.skill_discovery.SkillDiscovery`, its arguments being attributes
    :raises ValueError: for the first wrong one, by its name
    """
    limits = {"batch_size": (1, np.inf), "learning_starts": (0, np.inf), "tau": (0, 1), "gamma": (0, 1)}
    for name, (low, high) in limits.items():
        if not low <= (value := getattr(model, name)) <= high:
            raise ValueError(f"{name} must be between {low} and {high}, got {value!r}")
    if model.objective_batch_size is not None and model.objective_batch_size < model.batch_size:
        raise ValueError(
            f"objective_batch_size must be at least batch_size={model.batch_size}, got {model.objective_batch_size}"
        )
    size = model.objective_batch_size or model.batch_size
    if size > model.buffer_size:
        raise ValueError(f"buffer_size must hold at least one batch of {size} transitions, got {model.buffer_size}")
    buffer_class = model.replay_buffer_class
    if buffer_class is not None and not issubclass(buffer_class, SkillReplayBuffer):
        raise ValueError(f"replay_buffer_class must be a subclass of SkillReplayBuffer, got {buffer_class.__name__}")


def check_count(name: str, value: Any) -> None:
    """
    Refuse what is not a number of things.

    :param name: the argument to name in the error
    :param value: what came
    :raises ValueError: unless it is an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_weight(name: str, value: Any) -> None:
    """
    Refuse what is not the weight of a term.

    :param name: the argument to name in the error
    :param value: what came
    :raises ValueError: unless it is a finite number of at least 0
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 <= value < np.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")


def parse_target_entropy(target_entropy: str | float, action_dim: int) -> float:
    """
    The entropy that a learnt entropy coefficient aims at.

    :param target_entropy: a number, or ``"auto"`` for ``-|A|/2``
    :param action_dim: number of components of an action
    :return: entropy in nats
    """
    if target_entropy == "auto":
        return -0.5 * action_dim
    try:
        return float(target_entropy)
    except ValueError:
        raise ValueError(f'target_entropy must be a number or "auto", got {target_entropy!r}') from None
