"""Run every check on one examination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_count, check_mapping, check_seed
from sb3_metra.common.skill_model import SkillModel
from sb3_metra.doctor import learning, phi, skills, world
from sb3_metra.doctor.examination import N_EPISODES, Examination
from sb3_metra.doctor.findings import SEVERITIES, CannotTell, Check, Diagnosis, Finding
from sb3_metra.doctor.log import RunLog
from sb3_metra.evaluation.runs import read_log

#: All checks, in this order.
CHECKS: tuple[Check, ...] = (*learning.CHECKS, *world.CHECKS, *phi.CHECKS, *skills.CHECKS)


def examine(
    model: SkillModel,
    env: VecEnv | gym.Env,
    log: Mapping[str, np.ndarray] | str | Path | None = None,
    *,
    n_episodes: int = N_EPISODES,
    seed: int = 0,
    max_episode_steps: int | None = None,
    checks: Sequence[Check] = CHECKS,
) -> Diagnosis:
    """
    Examine a model, some of its rollouts and its log: what is wrong, and what was not checked.

    :param model: an algorithm of this package, or anything with ``predict`` and ``skill_prior``; a
        check that needs more is listed as not checked, with the reason
    :param env: an environment, or a vectorised one; not the training one
    :param log: the run's log: a file, its folder, or what :func:`~sb3_metra.evaluation.runs.read_log` returns
    :param n_episodes: rollouts, one skill each, at least 2
    :param seed: of the environments' resets
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :param checks: the checks, in this order
    :return: findings, what passed, and what was not checked
    :raises ValueError: if an argument is wrong; the message names it
    """
    check_count("n_episodes", n_episodes, low=2)
    check_seed("seed", seed)
    columns = (
        read_log(log, "log") if isinstance(log, str | Path) else None if log is None else check_mapping("log", log)
    )
    exam = Examination(model, env, RunLog(columns), n_episodes, seed, max_episode_steps)
    diagnosis = Diagnosis()
    for check in checks:
        try:
            evidence = check.look(exam)
        except CannotTell as reason:
            diagnosis.unchecked[check.name] = str(reason)
            continue
        if evidence is None:
            diagnosis.passed.append(check.name)
        else:
            diagnosis.findings.append(
                Finding(check.name, check.severity, evidence, check.healthy, check.remedy, check.read)
            )
    diagnosis.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return diagnosis


def diagnose(
    model: SkillModel, env: VecEnv | gym.Env, log: Mapping[str, np.ndarray] | str | Path | None = None
) -> list[Finding]:
    """
    What is wrong with a run, see :func:`examine`.

    :param model: as there
    :param env: as there
    :param log: as there
    :return: errors first; empty if nothing was found
    """
    return examine(model, env, log).findings
