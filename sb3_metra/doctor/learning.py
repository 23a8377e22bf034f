"""Problems of learning: nothing was learnt, entropy, critics, and too few skills in memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from sb3_metra.doctor.examination import Examination
from sb3_metra.doctor.findings import CannotTell, check

_METRA = "docs/modules/metra.md"
_MIN_EPISODES = 16  # in memory; the page says what 8 did to the point mass


@check(
    "error",
    healthy="gradient steps from learning_starts on",
    remedy="train for longer than learning_starts, and save the model afterwards",
    read=_METRA,
)
def never_trained(exam: Examination) -> str | None:
    """No gradient step was taken."""
    if exam.number("_n_updates") > 0:
        return None
    return f"no gradient step in {exam.number('num_timesteps'):.0f} environment steps"


@check(
    "error",
    healthy="a coefficient between 0.003 and 0.1 while rewards are at most 1",
    remedy="a target_entropy that the actor can reach, or a fixed ent_coef, such as 0.01 as in the authors' Kitchen",
    read=_METRA,
)
def entropy_collapsed(exam: Examination) -> str | None:
    """The learnt entropy coefficient is almost 0: the actor no longer explores."""
    dual = _entropy_dual(exam)
    if not dual.learnable:
        raise CannotTell("the entropy coefficient is fixed")
    value = float(dual.value)
    return None if value >= 1e-4 else f"the entropy coefficient is {value:.2g}{_entropy(exam)}"


@check(
    "error",
    healthy="a coefficient between 0.003 and 0.1 while rewards are at most 1",
    remedy="start lower (ent_coef='auto_0.01'), lower target_entropy (default: -|A|/2), or fix ent_coef",
    read=_METRA,
)
def entropy_exploding(exam: Examination) -> str | None:
    """The entropy coefficient outweighs the reward: the actor is rewarded for noise."""
    value, reward = float(_entropy_dual(exam).value), max(1.0, exam.reward_scale)
    if value <= reward:
        return None
    return f"the entropy coefficient is {value:.3g}, and rewards are at most {reward:.2g}{_entropy(exam)}"


def _entropy_dual(exam: Examination) -> Any:
    dual = getattr(exam.model, "entropy_dual", None)
    if dual is None:
        raise CannotTell("the model has no entropy coefficient")
    return dual


def _entropy(exam: Examination) -> str:
    return exam.log.in_words("entropy", "the entropy is {} nats")


@check(
    "error",
    healthy="values within what rewards can add up to, max|r| / (1 - gamma)",
    remedy="a smaller learning_rate or tau, or layer_norm=True in policy_kwargs; check the scale of observations",
    read=_METRA,
)
def critics_diverge(exam: Examination) -> str | None:
    """The critics' values exceed any sum of rewards."""
    gamma = exam.number("gamma")
    if gamma >= 1.0:
        raise CannotTell("gamma is 1, so values have no bound")
    reward = max(1.0, exam.reward_scale)
    bound = (reward + float(_entropy_dual(exam).value) * exam.action_dim) / (1.0 - gamma)
    values = {"the critics' values on the rollouts": float(np.abs(exam.q_values).max())}
    with suppress(CannotTell):
        values["q_target in the newest lines of the log"] = float(np.abs(exam.log.tail("q_target")).max())
    name, value = max(values.items(), key=lambda item: item[1])
    return None if value <= 2.0 * bound else f"{name} reach {value:.3g}, and rewards add up to {bound:.3g} at most"


@check(
    "warning",
    healthy="hundreds of episodes in memory, each with its skill, and each discrete skill several times",
    remedy="a larger buffer_size; images are kept once each, so a million transitions may fit",
    read=_METRA,
)
def few_skills_in_memory(exam: Examination) -> str | None:
    """Replay holds so few episodes that phi and critics see only a few skills."""
    length = float(np.median([len(trajectory) for trajectory in exam.trajectories]))
    episodes = exam.number("buffer_size") / length
    wanted = max(_MIN_EPISODES, 2 * exam.prior.dim if exam.prior.discrete else 0)
    if episodes >= wanted:
        return None
    return (
        f"memory holds at most {episodes:.0f} episodes of {length:.0f} steps and as many skills; {wanted} is the least"
    )


CHECKS = (never_trained, entropy_collapsed, entropy_exploding, critics_diverge, few_skills_in_memory)
