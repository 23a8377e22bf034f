"""Problems of the environment: observations, episodes, seeds, rewards and ends that leak."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_metra.doctor.examination import Examination
from sb3_metra.doctor.findings import CannotTell, check

_ENVIRONMENTS = "docs/guide/environments.md"
_MIN_STEPS = 20


@check(
    "warning",
    healthy="a fixed normalisation, measured once, or none",
    remedy="VecNormalize with training=False after a warm-up of random actions, or the fixed normalisation of the "
    "environments of this package",
    read=_ENVIRONMENTS,
)
def observations_drift(exam: Examination) -> str | None:
    """VecNormalize still changes: the same place looks different later, and phi's distances lose their meaning."""
    normalization = getattr(exam.model, "normalization", None)
    if normalization is None or not normalization.training:
        return None
    return f"VecNormalize still learns, after {normalization.count:.0f} observations"


@check(
    "error",
    healthy="components of one scale: at most a few hundred, the largest deviation 30 times the median one",
    remedy="normalise observations by a fixed mean and deviation",
    read=_ENVIRONMENTS,
)
def observations_unequal(exam: Examination) -> str | None:
    """A component of the observation drowns the others."""
    for key, vectors in exam.vectors.items():
        sizes, deviations = np.abs(vectors).max(axis=0), vectors.std(axis=0)
        largest, median = (
            int(sizes.argmax()),
            float(np.median(deviations[deviations > 0], axis=0) if deviations.any() else 0),
        )
        where = f"component {largest}{f' of {key}' if key else ''}"
        if sizes[largest] > 1e3:
            return f"{where} reaches {sizes[largest]:.3g}, and the median component deviates by {median:.2g}"
        if median > 0 and deviations.max() > 300 * median:
            return f"component {deviations.argmax()} deviates by {deviations.max():.3g}, the median one by {median:.2g}"
    return None


@check(
    "warning",
    healthy="50 steps (the paper's Kitchen) to 200 (its bodies)",
    remedy="a larger max_episode_steps, and no termination before the body gets anywhere",
    read=_ENVIRONMENTS,
)
def episodes_too_short(exam: Examination) -> str | None:
    """Episodes end before a skill can lead anywhere: phi may move by 1 a step."""
    length = float(np.median([len(trajectory) for trajectory in exam.trajectories]))
    return None if length >= _MIN_STEPS else f"half of the episodes have {length:.0f} steps or fewer"


@check(
    "warning",
    healthy="episodes that are cut by a time limit, with truncated=True",
    remedy="terminate_when_unhealthy=False and the like; truncated=True at a time limit, not terminated",
    read=_ENVIRONMENTS,
)
def episodes_terminate(exam: Examination) -> str | None:
    """Most episodes end by termination: surviving matters more than the skill, or a time limit is misreported."""
    terminated, truncated = exam.endings
    if terminated + truncated == 0:
        raise CannotTell("the environment ended no episode")
    share, lengths = terminated / (terminated + truncated), {len(trajectory) for trajectory in exam.trajectories}
    if share <= 0.5:
        return None
    limit = f", all after {max(lengths)} steps, as by a time limit" if len(lengths) == 1 else ""
    return f"{share:.0%} of the episodes end by termination{limit}"


@check(
    "warning",
    healthy="every episode begins somewhere else",
    remedy="a reset that draws from self.np_random and does not seed it; make_vec_env gives each environment its own "
    "seed",
    read=_ENVIRONMENTS,
)
def starts_repeat(exam: Examination) -> str | None:
    """Episodes begin alike: the environment seeds itself, or several environments have the same seed."""
    starts = {_bytes(trajectory.observations[0]) for trajectory in exam.trajectories}
    if len(starts) <= len(exam.trajectories) // 2:
        return f"{len(exam.trajectories)} episodes begin in {len(starts)} states"
    twins = exam.twin_environments
    return None if not twins else f"{twins} of the training environments begin like another one"


def _bytes(observation: np.ndarray | dict[str, np.ndarray]) -> bytes:
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return b"".join(np.asarray(part).tobytes() for part in parts)


@check(
    "error",
    healthy="an intrinsic reward that does not depend on the environment's reward and on ends",
    remedy="use only observations and skills in SkillObjective.reward",
    read="docs/guide/add_a_method.md",
)
def reward_leaks(exam: Examination) -> str | None:
    """The intrinsic reward depends on the environment's reward, or on whether the episode ends."""
    batch, plain = exam.transitions, exam.rewards
    others = {
        "the environment's reward": batch._replace(rewards=th.ones_like(batch.rewards)),
        "termination": batch._replace(dones=th.ones_like(batch.dones)),
    }
    for what, changed in others.items():
        difference = float(np.abs(exam.reward_of(changed) - plain).max())
        if difference > 1e-5 * max(1.0, float(np.abs(plain).max())):
            return f"another value of {what} changes the intrinsic reward by {difference:.2g}"
    return None


@check(
    "warning",
    healthy="observations of the body and of the world",
    remedy="remove the component from the observation; SB3 bootstraps at time limits without a clock",
    read=_ENVIRONMENTS,
)
def observation_leaks(exam: Examination) -> str | None:
    """A component of the observation is the clock of the episode, or the environment's reward."""
    observations, told = exam.seen
    if observations.shape[1] == 0:
        raise CannotTell("no observation is a vector of real numbers")
    for what, values in told.items():
        correlations = np.abs(_correlations(observations, values))
        if correlations.max(initial=0.0) > 0.9999:
            return (
                f"component {correlations.argmax()} of the observation is {what} (correlation {correlations.max():.5f})"
            )
    return None


def _correlations(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column with values; 0 where either does not vary."""
    columns, values = columns - columns.mean(axis=0), values - values.mean()
    scale = np.linalg.norm(columns, axis=0) * np.linalg.norm(values)
    return (columns.T @ values) / np.where(scale > 1e-9, scale, np.inf)


CHECKS = (
    observations_drift,
    observations_unequal,
    episodes_too_short,
    episodes_terminate,
    starts_repeat,
    reward_leaks,
    observation_leaks,
)
