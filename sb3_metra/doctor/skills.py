"""Problems of skills: the actor ignores them or is dead, the body stands still, or it lies on its back."""

from __future__ import annotations

import numpy as np

from sb3_metra.doctor.examination import Examination
from sb3_metra.doctor.findings import CannotTell, check


@check(
    "error",
    healthy="actions of two skills at the same observation are at least 0.6 apart, of 2",
    remedy="train longer if the run is young; a larger actor_gain in policy_kwargs lets first actions depend on the "
    "skill; check that train/intrinsic_reward moves and that entropy does not outweigh it",
    read="docs/modules/metra.md",
)
def actor_ignores_skill(exam: Examination) -> str | None:
    """The actor ignores the skill."""
    actions = exam.skill_actions
    n = actions.shape[1]
    apart = np.sqrt(np.square(actions[:, :, None] - actions[:, None]).mean(axis=-1))
    distance = float(apart.sum() / (len(actions) * n * (n - 1)))
    if distance >= 0.05:
        return None
    return f"actions of {n} skills at the same {len(actions)} observations are {distance:.2g} apart"


@check(
    "error",
    healthy="14 to 60 % of the units of a layer are saturated",
    remedy="start again with a smaller learning_rate: nothing brings such an actor back",
    read="docs/results/gpu.md",
)
def actor_saturated(exam: Examination) -> str | None:
    """The actor's hidden units do not react any more."""
    share = exam.saturation
    return None if share < 0.9 else f"{share:.0%} of the units of a hidden layer of the actor are above 0.99 of a tanh"


@check(
    "error",
    healthy="skills get farther than random actions: 1.3 times as far early on, 10 to 20 times as far when learnt",
    remedy="train longer if the run is young; otherwise fix the findings about phi first: they decide the reward",
    read="docs/modules/evaluation.md",
)
def skills_stand_still(exam: Examination) -> str | None:
    """Skills end nearer to their start than random actions do."""
    distances = exam.skill_distances
    by_chance, median = float(np.median(exam.random_distances)), float(np.median(distances))
    if not by_chance > 0:
        raise CannotTell("random actions lead nowhere here")
    if median >= 0.5 * by_chance:
        return None
    return (
        f"half of {len(distances)} skills end within {median:.2g} of their start, random actions within {by_chance:.2g}"
    )


@check(
    "warning",
    healthy="the body is on its feet, or moving, for most of an episode",
    remedy="end training episodes there (terminate_on_back=True of this package's bodies), so that memory holds "
    "something else; or train until skills get up",
    read="docs/guide/environments.md",
)
def absorbing_state(exam: Examination) -> str | None:
    """The body has fallen, or has stopped for good, for most of the time."""
    lying = exam.share_on_back
    if lying is not None and lying > 0.5:
        return f"the body lies on its back at {lying:.0%} of the steps"
    share = float(np.median([_share_at_end(places) for places in exam.coordinates]))
    if np.median(exam.skill_distances) < 0.5 * np.median(exam.random_distances):
        raise CannotTell("the skills stand still from the start")
    return None if share <= 0.5 else f"half of the skills spend the last {share:.0%} of an episode at one place"


def _share_at_end(places: np.ndarray) -> float:
    """The share of an episode that is left when the body gets to its last place, within 2 % of the way there."""
    away = np.linalg.norm(places - places[-1], axis=1)
    return 1.0 - float(np.flatnonzero(away > 0.02 * away.max()).max(initial=-1) + 1) / len(places)


CHECKS = (actor_ignores_skill, actor_saturated, skills_stand_still, absorbing_state)
