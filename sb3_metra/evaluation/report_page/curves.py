"""The curves of a run on the page: which are shown first, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LABELS: dict[str, tuple[str, str]] = {
    "eval/policy_state_coverage": ("policy state coverage", "cells that the evaluation's skills visit"),
    "eval/distance": ("distance", "from an episode's start to its end, on average"),
    "eval/mean_reward": ("return", "of the environment's own reward"),
    "train/dual_lambda": ("λ", "multiplier of the constraint"),
    "train/constraint_violation": ("constraint violated", "share of transitions with ‖Δφ‖ above 1"),
    "train/displacement_norm": ("‖Δφ‖", "how far one step moves φ"),
    "train/intrinsic_reward": ("intrinsic reward", "Δφ · z"),
    "train/phi_loss": ("loss of φ", ""),
    "train/critic_loss": ("loss of the critics", ""),
    "train/actor_loss": ("loss of the actor", ""),
    "train/entropy": ("entropy", "of the policy, in nats"),
    "train/ent_coef": ("α", "entropy coefficient"),  # noqa: RUF001
}
"""The curves that are shown first, in this order: key in the log, name, explanation."""

_MAX_POINTS = 400


def check_curves(curves: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """
    Refuse what are no curves.

    :param curves: the given value
    :raises ValueError: if they are no pairs of x and y by name
    """
    if not isinstance(curves, dict):
        raise ValueError(f"curves must be a dictionary, as read_curves returns it, got {curves!r}")
    for name, curve in curves.items():
        shapes = [np.shape(values) for values in curve] if isinstance(curve, Sequence) else []
        if len(shapes) != 2 or len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise ValueError(f"curves must be pairs of x and y by name, got {curve!r} for {name!r}")
    return curves


def describe_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """
    Curves as the page wants them: known ones first, with their names, none with more points than are seen.

    :param curves: what :func:`~sb3_metra.evaluation.runs.read_curves` returns
    """
    known = [key for key in LABELS if key in curves]
    others = sorted(key for key in curves if key not in LABELS)
    described = []
    for key in [*known, *others]:
        x, y = curves[key]
        every = -(-len(x) // _MAX_POINTS)
        label, hint = LABELS.get(key, (key, ""))
        chosen = np.arange(len(x) - 1, -1, -every)[::-1]  # the last value is always there
        described.append(
            {"key": key, "label": label, "hint": hint, "known": key in LABELS, "x": x[chosen], "y": y[chosen]}
        )
    return described
