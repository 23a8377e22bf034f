"""What a run logged while it learnt, read from the files that it left behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

STEPS = "time/total_timesteps"

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


def read_curves(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """
    Learning curves of a run.

    :param folder: where ``progress.csv`` lies, SB3's log, or else ``evaluations.npz``, which ``sb3-metra train`` leaves
    :return: for each key its steps and values, (n,) each; empty where there is neither file
    :raises ValueError: where a file is there but cannot be read
    """
    table, evaluations = folder / "progress.csv", folder / "evaluations.npz"
    if table.is_file():
        return _read_table(table)
    if evaluations.is_file():
        try:
            log = np.load(evaluations)
            return {"eval/policy_state_coverage": (log["timesteps"], log["results"].mean(axis=1))}
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{evaluations} must be what SB3's evaluation leaves behind: {error}") from error
    return {}


def _read_table(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    if STEPS not in rows[0]:
        raise ValueError(f"{path} must have a column {STEPS!r}, got {', '.join(rows[0])}")
    steps = np.array([_number(row[STEPS]) for row in rows])
    curves = {}
    for key in rows[0]:
        values = np.array([_number(row[key]) for row in rows])
        told = np.isfinite(values) & np.isfinite(steps)
        if key != STEPS and told.any():
            curves[key] = (steps[told], values[told])
    return curves


def _number(text: str | None) -> float:
    """A field's number; NaN where a row has none, or something else."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def describe_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """
    Curves as the page wants them: known ones first, with their names, none with more points than are seen.

    :param curves: what :func:`read_curves` returns
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
