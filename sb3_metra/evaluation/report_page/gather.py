"""From recorded trajectories to the plain values that a page draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_metra.common.skills import SkillPrior, SpherePrior
from sb3_metra.evaluation.coverage import state_coverage
from sb3_metra.evaluation.faithfulness import displacement_cosine
from sb3_metra.evaluation.projection import principal_plane
from sb3_metra.evaluation.rollout import SkillTrajectory, has_coordinates
from sb3_metra.evaluation.skills import skill_angles

_POINTS = 240  # of a path, at most about
_POINTS_BEHIND = 60  # of a path in the background


def gather(
    prior: SkillPrior,
    recorded: Sequence[SkillTrajectory],
    measured: Sequence[SkillTrajectory],
    films: Sequence[dict[str, Any] | None],
    unit: str = "",
) -> dict[str, Any]:
    """
    What the page shows of the skills.

    :param prior: p(z)
    :param recorded: an episode of each skill of the dial, with phi as the observations, (T + 1, dim); dim is 0 if there
        is no phi
    :param measured: the episodes that the numbers are taken from, likewise
    :param films: one for each that is recorded, or ``None``
    :param unit: of the coordinates
    """
    plane = PhiPlane.of([*recorded, *measured])
    cosines = cosines_of(recorded, prior)
    directions = prior.embed(th.as_tensor(np.stack([t.skill for t in recorded]))).numpy()
    hues = skill_hues(np.stack([t.skill for t in recorded]))
    skills = [
        {
            "name": _name(t.skill, i, prior),
            "vector": t.skill,
            "hue": hue,
            "steps": len(t),
            "cosine": cosine,
            "return": t.episode_return,
            "distance": _distance(t) if has_coordinates([t]) else None,
            "end": t.coordinates[-1] if has_coordinates([t]) else None,
            **_paths(t, plane, _POINTS),
            "asked": plane.asked(t.observations, direction),
            "film": film,
        }
        for i, (t, hue, cosine, direction, film) in enumerate(
            zip(recorded, hues, cosines, directions, films, strict=True)
        )
    ]
    behind = [
        {"hue": hue, **_paths(t, plane, _POINTS_BEHIND)}
        for t, hue in zip(measured, skill_hues(np.stack([t.skill for t in measured])), strict=True)
    ]
    kind = "discrete" if prior.discrete else "sphere" if isinstance(prior, SpherePrior) else "gauss"
    return {
        "prior": {"kind": kind, "dim": prior.dim},
        "place": _place_axes(recorded[0], unit),
        "phi": plane.axes,
        "skills": skills,
        "behind": behind,
        "numbers": headline_numbers(prior, measured, unit),
    }


def headline_numbers(prior: SkillPrior, measured: Sequence[SkillTrajectory], unit: str = "") -> list[dict[str, Any]]:
    """
    The numbers at the head of the page: coverage, distances, and how faithfully skills move phi.

    :param prior: p(z)
    :param measured: trajectories with phi as the observations
    :param unit: of the coordinates
    """
    n = len(measured)
    numbers: list[dict[str, Any]] = []
    if has_coordinates(measured):
        distances = [_distance(t) for t in measured]
        numbers = [
            {
                "label": "policy state coverage",
                "value": state_coverage(t.coordinates for t in measured),
                "hint": f"cells of side 1{' ' + unit if unit else ''} that {n} skills visit",
            },
            {"label": "mean distance", "value": np.mean(distances), "unit": unit, "hint": "from start to end"},
            {"label": "farthest skill", "value": np.max(distances), "unit": unit, "hint": "from start to end"},
        ]
    cosines = [cosine for cosine in cosines_of(measured, prior) if cosine is not None]
    if cosines:
        hint = "1: each skill moves φ the way it asks"
        numbers.append({"label": "cosine of Δφ and z", "value": float(np.mean(cosines)), "hint": hint})
    return numbers


def cosines_of(trajectories: Sequence[SkillTrajectory], prior: SkillPrior) -> list[float | None]:
    """
    How far phi moves the way that each skill asks for.

    :param trajectories: with phi as the observations
    :param prior: p(z)
    :return: cosines; ``None`` if phi has other dimensions than a skill, or there is none
    """
    if trajectories[0].observations.shape[1] != prior.dim:
        return [None] * len(trajectories)
    return displacement_cosine(trajectories, np.asarray, prior).tolist()


def skill_hues(skills: np.ndarray) -> np.ndarray:
    """
    A hue for each skill: the angle of the first two components, the number of a one-hot skill, or blue and red for -1
    and +1.

    :param skills: (n, skill_dim)
    :return: in degrees, (n,)
    """
    angles = skill_angles(skills)
    return np.where(angles > 0, 216.0, 0.0) if np.shape(skills)[1] == 1 else np.degrees(angles) % 360.0


class PhiPlane:
    """
    How phi is drawn, if there is one: over time if it has one dimension, as it is if it has two, and by the plane in
    which it varies most if it has more.

    :param center: what is taken off phi first, (dim,)
    :param rows: the axes, at most two of them, (n, dim)
    :param share: part of phi's variance that they hold
    """

    def __init__(self, center: np.ndarray, rows: np.ndarray, share: float) -> None:
        self.center, self.rows = center, rows
        dim = rows.shape[1]
        self.axes: dict[str, Any] | None = {"names": ["φ"] if dim == 1 else ["φ₁", "φ₂"], "note": ""}
        if dim == 0:
            self.axes = None
        elif dim > 2:
            self.axes = {
                "names": ["1st principal axis", "2nd principal axis"],
                "note": f"Of φ's {dim} dimensions, the plane in which it varies most: {share:.0%} of its variance.",
            }

    @classmethod
    def of(cls, trajectories: Sequence[SkillTrajectory]) -> PhiPlane:
        """
        The plane that shows most of some trajectories.

        :param trajectories: with phi as the observations
        """
        dim = trajectories[0].observations.shape[1]
        if dim <= 2:
            return cls(np.zeros(dim), np.eye(dim), 1.0)
        center, rows, shares = principal_plane(np.concatenate([t.observations for t in trajectories]))
        return cls(center, rows, float(shares.sum()))

    def draw(self, phi: np.ndarray) -> np.ndarray:
        """
        Where points lie on the page.

        :param phi: (n, dim)
        :return: (2, n), or (1, n) over time
        """
        return self.rows @ (np.asarray(phi, dtype=np.float64) - self.center).T

    def asked(self, phi: np.ndarray, direction: np.ndarray) -> np.ndarray | None:
        """
        The way that phi would have gone, had it moved as far as it did and exactly as the skill asks.

        :param phi: of an episode, (T + 1, dim)
        :param direction: of the skill, (dim,)
        :return: its two ends on the page, (2, 2); ``None`` if phi is drawn over time, or has not a skill's dimensions
        """
        if len(self.rows) < 2 or phi.shape[1] != len(direction):
            return None
        reach = np.linalg.norm(phi[-1] - phi[0]) / max(float(np.linalg.norm(direction)), 1e-12)
        return self.draw(np.stack([phi[0], phi[0] + reach * direction]))


def _paths(trajectory: SkillTrajectory, plane: PhiPlane, points: int) -> dict[str, Any]:
    """A trajectory's place and phi with their steps, thinned out; the last step is always there."""
    steps = np.unique(np.linspace(0, len(trajectory), min(points, len(trajectory)) + 1).round().astype(int))
    place = trajectory.coordinates[steps, :2].T if has_coordinates([trajectory]) else None
    phi = None if plane.axes is None else plane.draw(trajectory.observations[steps])
    return {"at": steps, "place": place, "phi": phi}


def _place_axes(trajectory: SkillTrajectory, unit: str) -> dict[str, Any] | None:
    if not has_coordinates([trajectory]):
        return None
    n = trajectory.coordinates.shape[1]
    note = f"The first two of {n} coordinates." if n > 2 else ""
    return {"names": ["x", "y"][: min(n, 2)], "unit": unit, "note": note}


def _name(skill: np.ndarray, index: int, prior: SkillPrior) -> str:
    """What a skill is called on the page."""
    if prior.discrete:
        return str(int(skill.argmax()))
    if prior.dim == 1:
        return f"{skill[0]:+g}".replace("-", "−")  # noqa: RUF001  a minus sign
    if prior.dim == 2:
        return f"{round(float(np.degrees(np.arctan2(skill[1], skill[0])))) % 360}°"
    return f"#{index + 1}"


def _distance(trajectory: SkillTrajectory) -> float:
    return float(np.linalg.norm(trajectory.coordinates[-1] - trajectory.coordinates[0]))
