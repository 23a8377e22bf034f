"""Skill priors: what they draw, what they allow, and which way a skill points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SkillPrior, SpherePrior, make_prior

PRIORS: list[SkillPrior] = [SpherePrior(1), SpherePrior(2), SpherePrior(5), GaussianPrior(1), GaussianPrior(3)]
PRIORS += [OneHotPrior(2), OneHotPrior(16)]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_samples_are_valid_and_seeded(prior: SkillPrior) -> None:
    skills = prior.sample(100, np.random.default_rng(1))
    assert skills.shape == (100, prior.dim)
    assert skills.dtype == np.float32
    assert np.array_equal(prior.validate(skills), skills)
    assert np.array_equal(prior.sample(100, np.random.default_rng(1)), skills)
    assert not np.array_equal(prior.sample(100, np.random.default_rng(2)), skills)
    np.random.seed(3)
    before = prior.sample(100)
    np.random.seed(3)  # as old environments do: skills do not come from there
    assert not np.array_equal(prior.sample(100), before)
    prior.rng = np.random.default_rng(1)
    assert np.array_equal(prior.sample(100), skills)
    assert prior.sample(0).shape == (0, prior.dim)


def test_the_sphere_is_uniform() -> None:
    skills = SpherePrior(3).sample(20_000, np.random.default_rng(0)).astype(np.float64)
    assert np.allclose(np.linalg.norm(skills, axis=1), 1.0, atol=1e-6)
    assert np.allclose(skills.mean(axis=0), 0.0, atol=0.02)
    assert np.allclose(skills.T @ skills / len(skills), np.eye(3) / 3, atol=0.01)
    # Archimedes: each coordinate of a point on the sphere of R^3 is uniform on [-1, 1]
    shares = np.histogram(skills[:, 2], bins=10, range=(-1, 1))[0] / len(skills)
    assert np.allclose(shares, 0.1, atol=0.01)


def test_one_dimension_of_the_sphere_is_a_sign() -> None:
    skills = SpherePrior(1).sample(1_000, np.random.default_rng(0))
    assert set(skills.ravel().tolist()) == {-1.0, 1.0}
    assert 0.45 < np.mean(skills > 0) < 0.55


def test_gaussian_moments() -> None:
    skills = GaussianPrior(2).sample(20_000, np.random.default_rng(0)).astype(np.float64)
    assert np.allclose(skills.mean(axis=0), 0.0, atol=0.02)
    assert np.allclose(np.cov(skills.T), np.eye(2), atol=0.03)
    assert np.mean(np.abs(skills) < 1.0) == pytest.approx(0.6827, abs=0.01)


def test_one_hot_frequencies() -> None:
    skills = OneHotPrior(4).sample(8_000, np.random.default_rng(0))
    assert np.array_equal(np.sort(skills, axis=1), np.tile([0.0, 0.0, 0.0, 1.0], (8_000, 1)))
    assert np.allclose(skills.mean(axis=0), 0.25, atol=0.02)


def test_evaluation_skills() -> None:
    spread = OneHotPrior(16).evaluation_skills(48)
    assert np.array_equal(spread.sum(axis=0), np.full(16, 3.0))
    assert np.array_equal(OneHotPrior(3).evaluation_skills(4).argmax(axis=1), [0, 1, 2, 0])
    prior = SpherePrior(2)
    drawn = prior.evaluation_skills(48, np.random.default_rng(5))
    assert np.array_equal(drawn, prior.sample(48, np.random.default_rng(5)))


def test_embedding_by_hand() -> None:
    expected = th.full((4, 4), -1.0 / 3.0).fill_diagonal_(1.0)
    assert th.allclose(OneHotPrior(4).embed(th.eye(4)), expected, atol=1e-7)
    assert th.allclose(OneHotPrior(2).embed(th.eye(2)), th.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    skills = th.randn(6, 3)
    assert th.equal(SpherePrior(3).embed(skills), skills)
    assert th.equal(GaussianPrior(3).embed(skills), skills)


def test_toward_by_hand() -> None:
    assert np.allclose(SpherePrior(2).toward(np.array([3.0, 4.0])), [0.6, 0.8])
    assert np.allclose(SpherePrior(1).toward(np.array([-0.2])), [-1.0])
    assert np.allclose(GaussianPrior(2).toward(np.array([3.0, 4.0])), np.sqrt(2) * np.array([0.6, 0.8]))
    assert np.array_equal(OneHotPrior(3).toward(np.array([-1.0, 0.5, 0.2])), [0.0, 1.0, 0.0])


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_toward_is_the_best_skill(prior: SkillPrior) -> None:
    """No skill drawn from p(z), scaled to the same norm, agrees better with a direction."""
    directions = np.random.default_rng(0).normal(size=(5, 7, prior.dim))
    chosen = prior.toward(directions)
    assert chosen.shape == directions.shape
    assert chosen.dtype == np.float32
    prior.validate(chosen.reshape(-1, prior.dim))
    others = prior.sample(200, np.random.default_rng(1))
    if isinstance(prior, GaussianPrior):
        others *= np.sqrt(prior.dim) / np.linalg.norm(others, axis=1, keepdims=True)
    agreement = np.sum(chosen * directions, axis=-1)
    assert (agreement[..., None] >= directions @ others.T - 1e-5).all()


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_no_direction_gives_a_valid_skill_and_no_warning(prior: SkillPrior) -> None:
    with np.errstate(all="raise"):
        skills = prior.toward(np.zeros((2, prior.dim)))
    assert np.isfinite(skills).all()
    assert np.array_equal(prior.validate(skills), skills)


def test_a_tiny_direction_keeps_its_orientation() -> None:
    assert np.allclose(SpherePrior(2).toward(np.array([0.0, -1e-30])), [0.0, -1.0])


@pytest.mark.parametrize("direction", ["x", [[1.0], [1.0, 2.0]], {}])
def test_directions_that_are_no_numbers_are_refused(direction: Any) -> None:
    with pytest.raises(ValueError, match="direction must be an array of numbers, got "):
        SpherePrior(2).toward(direction)


@pytest.mark.parametrize(
    ("prior", "skill", "message"),
    [
        (SpherePrior(2), [1.0, 0.0, 0.0], r"skill must have shape \(2,\) or \(n, 2\), got \(3,\)"),
        (SpherePrior(2), 1.0, r"got \(\)"),
        (SpherePrior(2), [[[1.0, 0.0]]], r"got \(1, 1, 2\)"),
        (SpherePrior(2), [1.0, 1.0], r"skill must have norm 1, got \[\[1.0, 1.0\]\]"),
        (SpherePrior(2), [[1.0, 0.0], [0.9, 0.0]], "norm 1"),
        (SpherePrior(2), [math.nan, 1.0], "skill must be finite"),
        (SpherePrior(1), [0.5], "norm 1"),
        (GaussianPrior(2), [math.inf, 1.0], "skill must be finite"),
        (GaussianPrior(2), [1.0], "shape"),
        (OneHotPrior(3), [1.0, 1.0, 0.0], "skill must be one-hot"),
        (OneHotPrior(3), [0.5, 0.5, 0.0], "one-hot"),
        (OneHotPrior(3), [0.0, 0.0, 0.0], "one-hot"),
        (OneHotPrior(3), [2.0, -1.0, 0.0], "one-hot"),
    ],
)
def test_invalid_skills_are_refused(prior: SkillPrior, skill: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prior.validate(np.array(skill))


def test_valid_skills_become_single_precision() -> None:
    angles = np.linspace(0.0, 6.0, 50)
    skills = SpherePrior(2).validate(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert skills.dtype == np.float32
    assert OneHotPrior(2).validate(np.array([0, 1])).dtype == np.float32
    assert GaussianPrior(1).validate([[7.0]]).tolist() == [[7.0]]
    assert SpherePrior(2).validate(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("dim", [0, -1, 2.5, "2", None, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_invalid_dimensions_are_refused(dim: Any, discrete: bool) -> None:
    with pytest.raises(ValueError, match="skill_dim must be an integer of at least 1, got "):
        make_prior(dim, discrete)


def test_one_discrete_skill_is_refused() -> None:
    with pytest.raises(ValueError, match="skill_dim must be at least 2 with discrete skills, got 1"):
        OneHotPrior(1)


def test_make_prior() -> None:
    assert isinstance(make_prior(2), SpherePrior)
    assert isinstance(make_prior(2, unit_skills=False), GaussianPrior)
    assert isinstance(make_prior(np.int64(2), discrete=True), OneHotPrior)
    assert repr(make_prior(4)) == "SpherePrior(dim=4)"
    assert (OneHotPrior.discrete, SpherePrior.discrete, GaussianPrior.discrete) == (True, False, False)


@pytest.mark.parametrize("action", [-1, 3, 0.7, math.nan])
def test_numbers_of_no_skill(action: float) -> None:
    with pytest.raises(ValueError, match="actions must be numbers of skills, 0 to 2, got"):
        OneHotPrior(3).from_action(np.array([0, action]))
