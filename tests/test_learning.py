"""METRA learns: point masses go everywhere, a HalfCheetah runs both ways. Minutes, so marked slow."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.algorithms import ALGORITHMS
from sb3_metra.algorithms.metra import METRA
from sb3_metra.evaluation import SkillTrajectory, rollout_skills, state_coverage
from sb3_metra.evaluation.faithfulness import displacement_cosine
from sb3_metra.hyperparams import load_settings


def train(env_id: str, steps: int, algorithm: str = "METRA") -> tuple[METRA, list[SkillTrajectory]]:
    settings = load_settings(env_id, algorithm)
    settings.pop("n_timesteps")
    env = make_vec_env(env_id, settings.pop("n_envs"), seed=0, env_kwargs=settings.pop("env_kwargs", None))
    model = ALGORITHMS[algorithm](env=env, seed=0, device="cpu", **settings).learn(steps)
    skills = model.skill_prior.evaluation_skills(48, np.random.default_rng(0))
    return model, rollout_skills(model, make_vec_env(env_id, 8), skills, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "steps"), [("sb3_metra/PointMass-v0", 100_000), ("sb3_metra/PixelPointMass-v0", 32_000)]
)
def test_skills_of_a_point_mass_reach_every_octant_and_phi_is_faithful(env_id: str, steps: int) -> None:
    model, trajectories = train(env_id, steps)
    ends = np.stack([t.coordinates[-1] - t.coordinates[0] for t in trajectories])
    octants = np.floor(np.arctan2(ends[:, 1], ends[:, 0]) / (np.pi / 4)).astype(int) % 8
    assert set(octants) == set(range(8))
    assert displacement_cosine(trajectories, model.encode, model.skill_prior).mean() > 0.9
    assert state_coverage(t.coordinates for t in trajectories) > 150


@pytest.mark.slow
def test_skills_of_a_half_cheetah_run_both_ways() -> None:
    _, trajectories = train("sb3_metra/HalfCheetah-v0", 200_000)
    ends = np.array([t.coordinates[-1, 0] for t in trajectories])
    assert ends.min() < -5.0
    assert ends.max() > 5.0


@pytest.mark.slow
def test_skills_of_genda_enter_all_four_rooms() -> None:
    pytest.importorskip("minigrid")
    _, trajectories = train("sb3_metra/FourRooms-v0", 72_000, "GenDa")
    places = np.concatenate([t.coordinates for t in trajectories])
    places = places[(places != 9).all(axis=1)]  # not in a wall's gate
    assert len(np.unique(places > 9, axis=0)) == 4
    assert state_coverage(t.coordinates for t in trajectories) > 65  # METRA had 67 at best
