"""The doctor: runs that were sabotaged on purpose are named rightly, and healthy ones raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra import CSF, GenDa
from sb3_metra.algorithms.metra import METRAObjective
from sb3_metra.doctor import CHECKS, diagnose, examine, phi
from sb3_metra.doctor.examination import Examination
from sb3_metra.doctor.findings import Finding
from sb3_metra.doctor.log import RunLog
from sb3_metra.evaluation.runs import read_log
from tests.patients import STEP, hand_made, healthy_log, set_actor, set_phi, worlds

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAMES = {check.name for check in CHECKS}


def found(model: Any, env: Any = None, log: Any = None) -> set[str]:
    """Names of the findings."""
    return {finding.name for finding in diagnose(model, worlds() if env is None else env, log)}


# Healthy ones


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"cls": GenDa},
        {"cls": CSF},
        {"discrete": True, "skill_dim": 4},
        {"discrete": True, "skill_dim": 40},
        {"skill_dim": 1},
        {"constraint_norm": "mean"},
    ],
    ids=str,
)
def test_a_healthy_model_raises_no_alarm(kwargs: dict[str, Any]) -> None:
    model = hand_made(**kwargs)
    diagnosis = examine(model, worlds())
    assert diagnosis.findings == []
    assert diagnose(model, worlds(), healthy_log()) == []
    assert set(diagnosis.passed) | diagnosis.unchecked.keys() == NAMES
    assert len(diagnosis.passed) >= 17
    assert diagnosis.verdict.startswith("Healthy: nothing was found")


def test_the_published_logs_raise_no_alarm_but_for_one() -> None:
    """Of a run whose actor ignored the skill, so that phi had nothing to follow."""
    exam = Examination(hand_made(), worlds(), RunLog(None))
    logs = sorted(RESULTS.glob("*_s*.csv"))
    assert len(logs) >= 30
    ill = set()
    for path in logs:
        exam.log = RunLog(read_log(path))
        checks = (phi.constraint_never_engaged, phi.constraint_violated)
        ill |= {(path.stem, check.name) for check in checks if check.look(exam) is not None}
    assert ill == {("cheetah_pixels_gain3_s20", "constraint_never_engaged")}


# Sabotaged ones: what was done, and everything that the doctor must name, no more and no less


def collapsed_entropy() -> Any:
    model = hand_made()
    model.entropy_dual.log_value.data.fill_(-12.0)
    return model


def exploding_entropy() -> Any:
    model = hand_made()
    model.entropy_dual.log_value.data.fill_(2.0)
    return model


def diverging_critics() -> Any:
    model = hand_made()
    for parameter in model.critic.parameters():
        parameter.data.mul_(1e5)
    return model


def untrained() -> Any:
    model = hand_made()
    model._n_updates = 0
    return model


def deaf_actor() -> Any:
    model = hand_made()
    set_actor(model, skill=th.zeros(2, 2))
    model.actor.mu.bias.data.fill_(2.0)  # runs, but always the same way
    return model


def dead_actor() -> Any:
    """A hidden layer far in the ends of its tanh, before outputs that would follow the skill."""
    model = hand_made(policy_kwargs={"net_arch": [8]})
    model.actor.latent_pi[0].bias.data.fill_(40.0)
    model.actor.mu.bias.data.fill_(2.0)
    return model


def standing() -> Any:
    model = hand_made()
    set_actor(model, skill=0.6 * th.eye(2), place=-12.0)  # every skill stays 0.05 from the origin
    return model


def one_direction() -> Any:
    model = hand_made()
    set_phi(model, 0.9 / STEP * th.tensor([[1.0, 0.0], [1.0, 0.0]]))
    return model


def constant_phi() -> Any:
    model = hand_made()
    set_phi(model, th.zeros(2, 2))
    return model


def posture_phi() -> Any:
    model = hand_made(env=worlds(extra="gait"))
    set_phi(model, 1e-3 * th.eye(2), extra=0.5)
    return model


def short_phi() -> Any:
    model = hand_made()
    model.objective.phi.out.weight.data.mul_(0.05)
    return model


def long_phi() -> Any:
    model = hand_made()
    model.objective.phi.out.weight.data.mul_(5.0)
    return model


def learning_normalization() -> Any:
    return hand_made(env=VecNormalize(worlds()))


class LeakyObjective(METRAObjective):
    """Adds the environment's reward to its own."""

    def reward(self, batch: Any) -> th.Tensor:
        return super().reward(batch) + 0.1 * batch.rewards


class EndingObjective(METRAObjective):
    """Rewards an episode that goes on."""

    def reward(self, batch: Any) -> th.Tensor:
        return super().reward(batch) * (1.0 - batch.dones)


def leaky(objective: type[METRAObjective]) -> Any:
    model = hand_made()
    state = model.objective.state_dict()
    model.objective = objective(model.skill_prior, model.objective.phi)
    model.objective.load_state_dict(state)
    return model


def twins() -> Any:
    model = hand_made(env=worlds(own_seed=3), learning_starts=1_000)
    model.learn(16)
    model._n_updates = 1
    return model


SABOTAGE: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any, set[str]]] = {
    "no gradient step": (untrained, worlds, None, {"never_trained"}),
    "entropy coefficient 6e-6": (collapsed_entropy, worlds, None, {"entropy_collapsed"}),
    "entropy coefficient 7.4": (exploding_entropy, worlds, None, {"entropy_exploding"}),
    "critics times 1e5": (diverging_critics, worlds, None, {"critics_diverge"}),
    "targets grow in the log": (
        hand_made,
        worlds,
        healthy_log(q_target=np.geomspace(1, 1e5, 12)),
        {"critics_diverge"},
    ),
    "memory of ten episodes": (lambda: hand_made(buffer_size=256), worlds, None, {"few_skills_in_memory"}),
    "fewer episodes than discrete skills": (
        lambda: hand_made(discrete=True, skill_dim=40, buffer_size=1_200),
        worlds,
        None,
        {"few_skills_in_memory"},
    ),
    "VecNormalize learns": (learning_normalization, worlds, None, {"observations_drift"}),
    "places times 1e4": (
        lambda: hand_made(env=worlds(scale=1e4)),
        lambda: worlds(scale=1e4),
        healthy_log(),
        {"observations_unequal"},
    ),
    "a component of noise beside it": (
        lambda: hand_made(env=worlds(extra="noise", scale=1e-4)),
        lambda: worlds(extra="noise", scale=1e-4),
        healthy_log(),
        {"observations_unequal"},
    ),
    "episodes of 8 steps": (hand_made, lambda: worlds(length=8), None, {"episodes_too_short"}),
    "time limit that terminates": (
        hand_made,
        lambda: worlds(terminate_after=22),
        None,
        {"episodes_terminate"},
    ),
    "one start": (hand_made, lambda: worlds(reset_noise_scale=0.0), None, {"starts_repeat"}),
    "environments with one seed": (twins, worlds, None, {"starts_repeat"}),
    "reward leaks": (lambda: leaky(LeakyObjective), worlds, None, {"reward_leaks"}),
    "termination leaks": (lambda: leaky(EndingObjective), worlds, None, {"reward_leaks"}),
    "a clock is observed": (
        lambda: hand_made(env=worlds(extra="clock")),
        lambda: worlds(extra="clock"),
        None,
        {"observation_leaks"},
    ),
    "the reward is observed": (
        lambda: hand_made(env=worlds(extra="reward")),
        lambda: worlds(extra="reward"),
        None,
        {"observation_leaks"},
    ),
    "lambda waits": (
        hand_made,
        worlds,
        healthy_log(dual_lambda=np.geomspace(30, 0.05, 12), constraint_violation=0.0, displacement_norm=0.02),
        {"constraint_never_engaged"},
    ),
    "phi a twentieth as long": (short_phi, worlds, None, {"constraint_never_engaged"}),
    "constraint violated in the log": (
        hand_made,
        worlds,
        healthy_log(constraint_violation=0.9, displacement_norm=7.0),
        {"constraint_violated"},
    ),
    "phi five times as long": (long_phi, worlds, None, {"constraint_violated"}),
    "phi of one direction": (one_direction, worlds, None, {"phi_one_direction"}),
    "phi is constant": (constant_phi, worlds, healthy_log(), {"phi_ignores_places"}),
    "phi sees the gait": (
        posture_phi,
        lambda: worlds(extra="gait"),
        healthy_log(),
        {"phi_tells_postures", "phi_ignores_places", "phi_one_direction"},
    ),
    "actor ignores the skill": (deaf_actor, worlds, None, {"actor_ignores_skill", "phi_one_direction"}),
    "actor is saturated": (
        dead_actor,
        worlds,
        None,
        {"actor_saturated", "actor_ignores_skill", "phi_one_direction"},
    ),
    "skills stand still": (standing, worlds, healthy_log(), {"skills_stand_still"}),
    "on the back": (hand_made, lambda: worlds(lies_from=10), None, {"absorbing_state"}),
    "against a wall": (hand_made, lambda: worlds(arena=0.5), None, {"absorbing_state"}),
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_what_was_sabotaged_is_named(sabotage: str) -> None:
    patient, env, log, expected = SABOTAGE[sabotage]
    assert found(patient(), env(), log) == expected


def test_every_check_has_a_patient() -> None:
    assert set().union(*(names for *_, names in SABOTAGE.values())) == NAMES


def test_a_printed_finding_fits_on_a_screen() -> None:
    text = str(Finding("name", "error", "seen " * 40, "fine", "help " * 40, "docs/page.md"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert (lines[0], lines[1][:15], lines[2][:15]) == ("error: name", "  seen:    seen", "           seen")
    assert text.split().count("seen") == text.split().count("help") == 40
