"""Problems of phi: its constraint, its directions, and what it shows of a state."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from sb3_metra.doctor.examination import Examination
from sb3_metra.doctor.findings import CannotTell, check
from sb3_metra.evaluation.faithfulness import path_cosine
from sb3_metra.evaluation.metrics import constraint_norm_of

_METRA = "docs/modules/metra.md"
_PAIRS = 20_000  # of states whose distances are compared


@check(
    "error",
    healthy="a few per cent of the transitions violate the constraint, and λ is level",
    remedy="a smaller dual_lambda or a larger learning_rate, so that λ falls sooner; then a larger "
    "objective_batch_size, so that each batch holds some of the transitions that bind the constraint",
    read=_METRA,
)
def constraint_never_engaged(exam: Examination) -> str | None:
    """λ falls while nothing violates the constraint: λ keeps phi's steps short, and the reward is almost 0."""
    _dual(exam)
    try:
        violation, dual_lambda = exam.log.tail("constraint_violation"), exam.log.tail("dual_lambda")
    except CannotTell:
        steps = _steps(exam)
        longest = float(np.quantile(steps, 0.99))
        return None if longest >= 0.1 else f"99 % of phi's steps are shorter than {longest:.2g}, where 1 is allowed"
    if violation.mean() >= 1e-3 or dual_lambda[-1] > dual_lambda[0]:
        return None
    lengths = exam.log.in_words("displacement_norm", "phi's steps are {} long")
    return (
        f"λ went from {dual_lambda[0]:.3g} to {dual_lambda[-1]:.3g} over the last {len(dual_lambda)} lines of the log, "
        f"where {violation.mean():.2%} of the transitions violate the constraint{lengths}"
    )


@check(
    "error",
    healthy="at most a tenth of the transitions violate the constraint",
    remedy="a larger dual_lambda, and a dual_slack that lets λ grow; check that λ is learnt at all",
    read=_METRA,
)
def constraint_violated(exam: Examination) -> str | None:
    """Most transitions violate the constraint: phi's distances are no longer numbers of steps."""
    _dual(exam)
    try:
        violation = exam.log.tail("constraint_violation")
    except CannotTell:
        size = float(np.sqrt(np.mean(np.square(_steps(exam)))))
        return None if size <= 2.0 else f"the root mean square of phi's steps is {size:.3g}, where 1 is allowed"
    if np.median(violation) <= 0.5:
        return None
    lengths = exam.log.in_words("displacement_norm", "phi's steps are {} long")
    return (
        f"{np.median(violation):.0%} of the transitions violate the constraint in the newest lines of the log{lengths}"
    )


def _dual(exam: Examination) -> Any:
    dual = getattr(getattr(exam.model, "objective", None), "dual", None)
    if dual is None:
        raise CannotTell("the method has no constraint on phi's steps")
    return dual


def _steps(exam: Examination) -> np.ndarray:
    """Lengths of phi's steps in the norm of the constraint, whose bound must be 1."""
    if hasattr(exam.model.objective, "distance"):  # type: ignore[attr-defined]
        raise CannotTell("the bound of the constraint is learnt, and there is no log of it")
    squares = np.square(np.concatenate([np.diff(path, axis=0) for path in exam.paths]))
    return np.sqrt(squares.sum(axis=1) if constraint_norm_of(exam.model) == "sum" else squares.mean(axis=1))


@check(
    "error",
    healthy="skills move phi along as many directions as there are: a participation ratio of at least 1.5 in the plane",
    remedy="train longer if the run is young; otherwise a larger objective_batch_size, more skills in memory, or "
    "GenDa, which spreads directions; skill_dim=1 if the body can only move along a line",
    read=_METRA,
)
def phi_one_direction(exam: Examination) -> str | None:
    """All skills move phi along one line, so half of them do the same."""
    moves, prior = exam.moves, exam.prior
    wanted = prior.dim - 1 if prior.discrete else prior.dim
    with suppress(CannotTell):
        wanted = min(wanted, exam.coordinates[0].shape[1])
    if wanted < 2:
        raise CannotTell("the skills or the places have only one direction")
    squares = np.square(np.linalg.svd(moves, compute_uv=False))
    if not squares.sum() > 0:
        raise CannotTell("phi does not move")
    ratio = squares.sum() ** 2 / np.square(squares).sum()
    if ratio >= 1.2:
        return None
    first, second = np.sqrt(squares[:2] / len(moves))
    cosine = path_cosine(exam.paths, [t.skill for t in exam.trajectories], prior).mean()
    line = ", where 2/π = 0.64 is what one line gives" if prior.dim == 2 and not prior.discrete else ""
    return (
        f"over an episode phi moves {first:.3g} along its first direction and {second:.2g} along its second "
        f"(participation ratio {ratio:.2f}); its cosine with the skill is {cosine:.2f}{line}"
    )


@check(
    "error",
    healthy="distances in phi and in the world agree: correlations of at least 0.9",
    remedy="show phi the places: positions in the observation at the scale of the rest (normalize_steps=True in "
    "phi_kwargs), or a floor whose colour shows the place in images",
    read="docs/guide/environments.md",
)
def phi_ignores_places(exam: Examination) -> str | None:
    """Distances in phi say nothing about distances between places."""
    exam.moves  # noqa: B018  (of methods whose phi has distances)
    places = np.concatenate([*exam.coordinates, *(record.coordinates for record in exam.random_records)])
    phi = np.concatenate([*exam.paths, *exam.random_paths])
    rng = np.random.default_rng(exam.seed)
    first, second = rng.integers(len(places), size=(2, _PAIRS))
    in_world = np.linalg.norm(places[first] - places[second], axis=1)
    in_phi = np.linalg.norm(phi[first] - phi[second], axis=1)
    if not in_world.std() > 0:
        raise CannotTell("the places never change")
    if not in_phi.std() > 1e-6:
        return "phi is the same everywhere"
    correlation = float(np.corrcoef(in_world, in_phi)[0, 1])
    return (
        None if correlation >= 0.3 else f"distances in phi and between places have a correlation of {correlation:.2f}"
    )


@check(
    "error",
    healthy="phi gets somewhere: its displacement over an episode is at least half of its path",
    remedy="check that the observation shows where the body is, and that positions are not small beside joints and "
    "velocities (normalize_steps=True in phi_kwargs); train longer if the run is young",
    read="docs/guide/environments.md",
)
def phi_tells_postures(exam: Examination) -> str | None:
    """phi swings with the body's limbs and comes back."""
    lengths = np.array([np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in exam.paths])
    moved = np.linalg.norm(exam.moves, axis=1)
    if not (lengths > 1e-6).all():
        raise CannotTell("phi does not move")
    straightness = float(np.median(moved / lengths))
    if straightness >= 0.1:
        return None
    return f"phi's path over an episode is {np.median(lengths):.3g} long, its displacement {np.median(moved):.2g}"


CHECKS = (constraint_never_engaged, constraint_violated, phi_one_direction, phi_ignores_places, phi_tells_postures)
