"""What is each method's own, by hand: losses, rewards, and where they differ from their authors' code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.distributions import MultivariateNormal

from sb3_metra import CIC, CSD, CSF, DADS, DIAYN, LSD, VISR, GenDa
from sb3_metra.algorithms.csd import CSDObjective
from sb3_metra.algorithms.csf import CSFObjective
from sb3_metra.algorithms.dads import DADSObjective
from sb3_metra.algorithms.diayn import DIAYNObjective
from sb3_metra.algorithms.lsd import LSDObjective
from sb3_metra.algorithms.visr import VISRObjective
from sb3_metra.common.networks import Representation, flatten_state, state_dim
from sb3_metra.common.particle_entropy import ParticleEntropy, RunningMoments
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SkillPrior, SpherePrior, UniformPrior
from sb3_metra.common.spectral_norm import SpectralNorm
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from tests.test_skill_discovery import batch_of
from tests.toys import TINY, scripted_envs

SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


def linear(weight: list[list[float]] | None = None, bias: list[float] | None = None) -> Representation:
    """A map of the plane, (2 x, y) if not told otherwise."""
    weights = th.tensor([[2.0, 0.0], [0.0, 1.0]] if weight is None else weight)
    network = Representation(SPACE, ACTIONS, len(weights), net_arch=[])
    with th.no_grad():
        network.out.weight.copy_(weights)
        network.out.bias.copy_(th.zeros(len(weights)) if bias is None else th.tensor(bias))
    return network


def batch(skills: list[list[float]] | None = None, dones: tuple[float, float] = (0, 0)) -> SkillReplayBufferSamples:
    """From (0, 0) to (0.5, 0) and from (1, 1) to (1, 3)."""
    return SkillReplayBufferSamples(
        observations=th.tensor([[0.0, 0.0], [1.0, 1.0]]),
        actions=th.zeros(2, 1),
        next_observations=th.tensor([[0.5, 0.0], [1.0, 3.0]]),
        dones=th.tensor(dones).reshape(2, 1),
        rewards=th.full((2, 1), math.nan),
        skills=th.tensor([[0.6, 0.8], [0.0, 1.0]] if skills is None else skills),
    )


def tiny(algorithm: Any, **kwargs: Any) -> Any:
    """A model with small networks."""
    own = {DIAYN: "discriminator_kwargs", DADS: "dynamics_kwargs"}.get(algorithm, "phi_kwargs")
    arguments = {name: value for name, value in TINY.items() if name != "phi_kwargs"} | {own: {"net_arch": [8]}}
    return algorithm("MlpPolicy", scripted_envs(), **(arguments | {"skill_dim": 3} | kwargs))


# LSD


def test_a_spectral_norm_follows_the_largest_singular_value() -> None:
    th.manual_seed(0)
    weight = th.randn(6, 4)
    norm = SpectralNorm(weight)
    for _ in range(200):
        norm(weight)
    assert th.linalg.matrix_norm(norm(weight), 2).item() == pytest.approx(1.0, abs=1e-5)
    u = norm.u.clone()
    norm.eval()
    norm(2.0 * weight.flip(0))
    assert th.equal(norm.u, u)


def test_lsd_divides_by_the_singular_value() -> None:
    """phi is (2 x, y), so that its layer is halved: displacements are (0.5, 0) and (0, 1)."""
    objective = LSDObjective(SpherePrior(2), linear())
    objective.train()
    for _ in range(50):
        loss, info = objective.loss(batch())
    assert info["alignment"].tolist() == pytest.approx([0.3, 1.0], abs=1e-5)
    assert loss.item() == pytest.approx(-0.65, abs=1e-5)
    objective.eval()
    assert objective.reward(batch()).ravel().tolist() == pytest.approx([0.3, 1.0], abs=1e-5)


@pytest.mark.parametrize(("iterate_each_pass", "expected"), [(False, 1), (True, 4)])
def test_power_iterations_of_an_lsd_step(iterate_each_pass: bool, expected: int, monkeypatch: Any) -> None:
    model = tiny(LSD, iterate_each_pass=iterate_each_pass)
    iterations = []
    iterate = SpectralNorm.iterate
    monkeypatch.setattr(SpectralNorm, "iterate", lambda self, x: (iterations.append(self), iterate(self, x))[1])
    model.gradient_step(batch_of(model))
    assert len(iterations) == 2 * expected  # phi has two layers
    model.encode(np.ones(3, np.float32))
    assert len(iterations) == 2 * expected


def test_lsd_keeps_its_bound_from_the_first_moment_on() -> None:
    model = tiny(LSD, phi_kwargs={"net_arch": [64, 64]})
    x = np.random.default_rng(0).normal(size=(2, 500, 3)).astype(np.float32)
    for _ in range(2):
        stretch = np.linalg.norm(model.encode(x[0]) - model.encode(x[1]), axis=1) / np.linalg.norm(x[0] - x[1], axis=1)
        assert stretch.max() < 1.02
        assert stretch.max() > 0.05
        model.learn(240)


# CSD


def csd_objective(**kwargs: Any) -> CSDObjective:
    """Its density model expects (0, 1) with deviations 1 and e^2, whose geometric mean is e."""
    flat = [[0.0, 0.0], [0.0, 0.0]]
    return CSDObjective(SpherePrior(2), linear(), linear(flat, [0.0, 1.0]), linear(flat, [0.0, 2.0]), **kwargs)


def test_csd_by_hand() -> None:
    """Weights are e^2 and e^-2; errors of the differences (0.5, 0) and (0, 2) are (0.5, -1) and (0, 1)."""
    objective = csd_objective(dual_lambda=2.0, dual_slack=0.5)
    distance, loss = objective.distance(batch())
    expected = [(0.25 * math.e**2 + math.e**-2) / 2, math.e**-2 / 2]
    assert distance.tolist() == pytest.approx(expected, rel=1e-5)
    assert not distance.requires_grad
    normal = MultivariateNormal(th.tensor([0.0, 1.0]), th.diag(th.tensor([1.0, math.e**4])))
    assert loss.item() == pytest.approx(-normal.log_prob(th.tensor([[0.5, 0.0], [0.0, 2.0]])).mean().item(), rel=1e-5)
    total, info = objective.loss(batch())
    slack = [min(0.5, expected[0] - 1.0), expected[1] - 4.0]
    assert info["constraint_slack"].tolist() == pytest.approx(slack, rel=1e-5)
    phi_loss = -(0.6 + 2.0 * slack[0] + 2.0 + 2.0 * slack[1]) / 2
    assert info["phi_loss"].item() == pytest.approx(phi_loss, rel=1e-5)
    dual_loss = math.log(2.0) * sum(slack) / 2
    assert total.item() == pytest.approx(phi_loss + dual_loss + loss.item(), rel=1e-5)


def test_gradients_of_csd_do_not_mix() -> None:
    objective = csd_objective()
    together = objective.loss(batch())[0]
    alone = objective.distance(batch())[1]
    distance = [*objective.mean.parameters(), *objective.log_std.parameters()]
    for x, y in zip(th.autograd.grad(together, distance), th.autograd.grad(alone, distance), strict=True):
        assert th.allclose(x, y)


# CSF and VISR


def test_csf_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Displacements are (1, 0) and (0, 2); the negatives are (1, 0) and (0, 1)."""
    objective = CSFObjective(SpherePrior(2), linear(), contrast_coef=3.0, n_negatives=2)
    monkeypatch.setattr(objective.prior, "draw", lambda n, device: th.eye(2))
    loss, info = objective.loss(batch())
    logsumexp = [math.log(math.e + 1.0), math.log(1.0 + math.e**2)]
    assert info["logsumexp"].tolist() == pytest.approx(logsumexp)
    assert loss.item() == pytest.approx(-(0.6 - 3 * logsumexp[0] + 2.0 - 3 * logsumexp[1]) / 2)
    assert objective.reward(batch()).tolist() == [[1.0, 0.0], [0.0, 2.0]]


def test_csf_takes_fresh_negatives() -> None:
    objective = CSFObjective(SpherePrior(2), linear(), n_negatives=4)
    first, second = (objective.loss(batch())[1]["logsumexp"] for _ in range(2))
    assert not th.equal(first, second)


@pytest.mark.parametrize(("normalize_features", "length"), [(True, 1.0), (False, math.sqrt(5.0))])
def test_visr_by_hand(normalize_features: bool, length: float) -> None:
    """phi of the second state (1, 1) is (2, 1), of length sqrt(5); its skill is (0, 1)."""
    objective = VISRObjective(SpherePrior(2), linear(bias=[0.0, 0.0]), normalize_features)
    loss, info = objective.loss(batch())
    assert info["alignment"].tolist() == pytest.approx([0.0, 1.0 / math.sqrt(5.0)])
    assert loss.item() == pytest.approx(-0.5 / math.sqrt(5.0))
    assert objective.reward(batch())[1].norm().item() == pytest.approx(length)


@pytest.mark.parametrize("algorithm", [CSF, VISR])
def test_successor_features_by_hand(algorithm: Any) -> None:
    """The critic that promises less along the skill is followed as a whole, not component by component."""
    model = tiny(algorithm, gamma=0.5)
    batch = batch_of(model)
    batch = batch._replace(rewards=th.randn(16, 3), dones=(th.arange(16.0) < 4).float().reshape(-1, 1))
    th.manual_seed(3)
    loss, info = model.critic_loss(batch)
    th.manual_seed(3)
    with th.no_grad():
        following = model.policy.condition(batch.next_observations, batch.skills)
        psi = model.critic_target(following, model.actor.action_log_prob(following)[0])
        values = [(x * batch.skills).sum(dim=1) for x in psi]
        chosen = th.where((values[0] <= values[1]).reshape(-1, 1), psi[0], psi[1])
        target = batch.rewards + 0.5 * (1.0 - batch.dones) * chosen
        now = model.critic(model.policy.condition(batch.observations, batch.skills), batch.actions)
    assert th.allclose(info["sf_target"], target, atol=1e-6)
    assert th.allclose(info["q_target"].squeeze(1), (target * batch.skills).sum(dim=1), atol=1e-6)
    assert loss.item() == pytest.approx(sum((x - target).square().mean().item() for x in now), rel=1e-5)
    assert not th.equal(chosen, th.minimum(*psi))


def test_the_reward_of_successor_features_is_logged_as_a_number() -> None:
    model = tiny(CSF)
    batch = batch_of(model)
    info = model.gradient_step(batch)
    alignment = (model.objective.reward(batch) * batch.skills).sum(dim=1, keepdim=True)
    assert th.allclose(info["intrinsic_reward"], alignment, atol=1e-6)


def test_visr_goes_to_a_goal_wherever_it_is() -> None:
    model = tiny(VISR)
    goal = np.array([1.0, -2.0, 0.5], np.float32)
    skill = model.skill_toward(np.zeros(3, np.float32), goal)
    assert np.allclose(skill, model.skill_prior.toward(model.encode(goal)))
    assert np.array_equal(skill, model.skill_toward(np.ones(3, np.float32), goal))


# DIAYN


@pytest.mark.parametrize(("subtract_log_prior", "added"), [(True, math.log(2.0)), (False, 0.0)])
def test_diayn_with_discrete_skills_by_hand(subtract_log_prior: bool, added: float) -> None:
    """Logits are (2 x, y) of s': (1, 0) and (2, 3)."""
    objective = DIAYNObjective(OneHotPrior(2), linear(), None, subtract_log_prior)
    one_hots = batch([[1.0, 0.0], [1.0, 0.0]])
    expected = [-math.log(1.0 + math.exp(-1.0)) + added, -math.log(1.0 + math.e) + added]
    assert objective.reward(one_hots).ravel().tolist() == pytest.approx(expected, rel=1e-6)
    assert objective.loss(one_hots)[0].item() == pytest.approx(-sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("subtract_log_prior", [True, False])
def test_diayn_with_continuous_skills_by_hand(subtract_log_prior: bool) -> None:
    """The mean is (2 x, y) of s', (1, 0) and (2, 3); deviations are 1 and e."""
    log_std = linear([[0.0, 0.0], [0.0, 0.0]], [0.0, 1.0])
    objective = DIAYNObjective(GaussianPrior(2), linear(), log_std, subtract_log_prior)
    skills = th.tensor([[0.6, 0.8], [0.0, 1.0]])
    q = MultivariateNormal(th.tensor([[1.0, 0.0], [2.0, 3.0]]), th.diag(th.tensor([1.0, math.e**2])))
    p = MultivariateNormal(th.zeros(2), th.eye(2))
    expected = q.log_prob(skills) - (p.log_prob(skills) if subtract_log_prior else 0.0)
    assert objective.reward(batch()).ravel().tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_skills_that_are_told_by_nothing_are_worth_nothing() -> None:
    """A discriminator that knows only the prior rewards 0, so that no skill is better than another."""
    flat = [[0.0, 0.0], [0.0, 0.0]]
    objective = DIAYNObjective(GaussianPrior(2), linear(flat), linear(flat))
    assert objective.reward(batch([[3.0, -1.0], [0.1, 0.0]])).ravel().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


# DADS


def dads_objective(prior: SkillPrior | None = None, **kwargs: Any) -> DADSObjective:
    """It predicts that s' - s is z, in units that are not normalised."""
    objective = DADSObjective(UniformPrior(2) if prior is None else prior, 2, net_arch=[], **kwargs)
    with th.no_grad():
        objective.dynamics[0].weight.copy_(th.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
        objective.dynamics[0].bias.zero_()
    return objective.eval()


def test_dads_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences are (0.5, 0) and (0, 2); the statistics begin at 0 and 1."""
    objective = dads_objective(n_alternatives=2)
    others = th.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]]])
    monkeypatch.setattr(objective.prior, "draw", lambda n, device: others.reshape(n, 2))
    own = batch([[0.5, 0.5], [0.0, 1.0]])
    scale = 1.0 + 1e-5  # of a batch norm with variance 1
    squares = {"own": [0.25, 1.0], "first": [0.25, 4.0], "second": [0.0, 1.0]}
    expected = [
        math.log(3.0)
        - math.log(1.0 + sum(math.exp((squares["own"][i] - squares[x][i]) / 2) for x in ("first", "second")))
        for i in range(2)
    ]
    assert objective.reward(own).ravel().tolist() == pytest.approx(expected, rel=1e-4 * scale)
    log_q = [-0.5 * x - math.log(2.0 * math.pi) for x in squares["own"]]
    assert objective.log_q(own, own.skills).tolist() == pytest.approx(log_q, rel=1e-4)


@pytest.mark.parametrize(("skip_last_steps", "transitions"), [(False, [0, 1]), (True, [0])])
def test_dads_and_terminal_transitions(skip_last_steps: bool, transitions: list[int]) -> None:
    objective = dads_objective(skip_last_steps=skip_last_steps)
    some = batch(dones=(0.0, 1.0))
    expected = -objective.log_q(some, some.skills)[transitions].mean()
    assert objective.loss(some)[0].item() == pytest.approx(expected.item())


def test_dads_normalises_by_the_batch_in_the_loss_and_by_all_of_them_in_the_reward() -> None:
    objective = dads_objective()
    objective.train().loss(batch())
    differences = th.tensor([[0.5, 0.0], [0.0, 2.0]])
    mean, var = objective.difference_norm.running_mean, objective.difference_norm.running_var
    assert th.allclose(mean, 0.01 * differences.mean(dim=0))
    assert th.allclose(var, 0.99 + 0.01 * differences.var(dim=0))
    objective.eval().reward(batch())
    assert th.allclose(mean, 0.01 * differences.mean(dim=0))


@pytest.mark.parametrize(
    ("kwargs", "prior"),
    [({}, UniformPrior), ({"gaussian_skills": True}, GaussianPrior), ({"discrete": True}, OneHotPrior)],
)
def test_the_priors_of_dads(kwargs: dict[str, Any], prior: type[SkillPrior]) -> None:
    assert type(tiny(DADS, **kwargs).skill_prior) is prior


def test_a_dictionary_of_vectors_is_one_state() -> None:
    space = spaces.Dict({"b": spaces.Box(-1.0, 1.0, (2, 2)), "a": spaces.Discrete(3)})
    observations = {"b": th.arange(4.0).reshape(1, 2, 2), "a": th.tensor([[0.0, 1.0, 0.0]])}
    assert state_dim(space, "DADS") == 7
    assert flatten_state(observations).tolist() == [[0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 3.0]]


# CIC


def test_running_moments_are_those_of_all_numbers() -> None:
    moments, parts = RunningMoments(), [th.randn(5_000) * 3.0 + 2.0, th.rand(30_000, 2)]
    for part in parts:
        moments.update(part)
    together = th.cat([part.flatten() for part in parts])
    assert moments.mean.item() == pytest.approx(together.mean().item(), rel=1e-4)
    assert moments.var.item() == pytest.approx(together.var(correction=0).item(), rel=1e-3)
    assert moments.count.item() == pytest.approx(65_000.0)


@pytest.mark.parametrize(("divide_by_variance", "power"), [(False, 0.5), (True, 1.0)])
def test_particle_entropy_by_hand(divide_by_variance: bool, power: float) -> None:
    """On a line: from 0 to 1, 3 and 10, and from 4 to 3, 1 and 10; the two nearest count."""
    entropy = ParticleEntropy(2, divide_by_variance)
    reward = entropy(th.tensor([[0.0], [4.0]]), th.tensor([[10.0], [1.0], [3.0]]))
    variance = np.var([1.0, 3.0, 1.0, 3.0], ddof=1)
    expected = [math.log(1.0 + 2.0 / variance**power - 5e-4)] * 2
    assert reward.ravel().tolist() == pytest.approx(expected, rel=1e-3)


def test_the_scale_of_phi_does_not_matter_to_cic() -> None:
    points, others = th.randn(2, 40, 3)
    rewards = [ParticleEntropy(5)(scale * points, scale * others) for scale in (1.0, 100.0)]
    assert th.allclose(rewards[0], rewards[1], atol=1e-2)
    authors = [ParticleEntropy(5, divide_by_variance=True)(scale * points, scale * others) for scale in (1.0, 100.0)]
    assert authors[1].mean() < 0.1 * authors[0].mean()


def test_cic_learns_which_skill_was_followed() -> None:
    """Where s' - s is the skill, the contrastive loss falls far below that of chance."""
    model = tiny(CIC, phi_kwargs={"net_arch": [32]}, learning_rate=3e-3, batch_size=64)
    losses = []
    for _ in range(100):
        batch = batch_of(model, 64)
        batch = batch._replace(next_observations=batch.observations + batch.skills)
        losses.append(model.gradient_step(batch)["phi_loss"].item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5


# Bad input


@pytest.mark.parametrize(
    ("algorithm", "kwargs", "message"),
    [
        (VISR, {"discrete": True}, "discrete must be False for VISR"),
        (VISR, {"unit_skills": False}, "unit_skills must be True for VISR"),
        (CIC, {"n_neighbors": 17}, "n_neighbors must be at most batch_size=16, got 17"),
        (CIC, {"n_neighbors": 2.5}, "n_neighbors must be an integer of at least 1, got 2.5"),
        (CSF, {"n_negatives": 0}, "n_negatives must be an integer of at least 1, got 0"),
        (CSF, {"contrast_coef": -1.0}, "contrast_coef must be a finite number of at least 0, got -1.0"),
        (CSF, {"contrast_coef": "much"}, "contrast_coef must be a finite number of at least 0, got 'much'"),
        (DADS, {"n_alternatives": 0}, "n_alternatives must be an integer of at least 1, got 0"),
        (DADS, {"gaussian_skills": "no"}, "gaussian_skills must be True or False, got 'no'"),
        (DADS, {"discrete": "no"}, "discrete must be True or False, got 'no'"),
        (GenDa, {"uniformity_coef": None}, "uniformity_coef must be a finite number of at least 0, got None"),
        (GenDa, {"phi_tau": 2.5}, "phi_tau must be a number between 0 and 1, got 2.5"),
        (GenDa, {"keep_threshold": float("nan")}, "keep_threshold must be a finite number of at least 0, got nan"),
        (GenDa, {"ahead": 2.5}, "ahead must be an integer of at least 1, got 2.5"),
        (GenDa, {"bottleneck_dim": 0}, "bottleneck_dim must be an integer of at least 1, or None, got 0"),
        (DIAYN, {"skill_dim": 1}, "skill_dim must be at least 2 with discrete skills"),
        (
            DIAYN,
            {"discriminator_kwargs": {"net_arc": [8]}},
            "discriminator_kwargs must hold arguments of Representation",
        ),
        (DIAYN, {"discriminator_kwargs": {"net_arch": [0]}}, "net_arch must be .* in discriminator_kwargs"),
        (DADS, {"dynamics_kwargs": {"dim": 8}}, "dynamics_kwargs must hold arguments of make_mlp, got 'dim'"),
        (DADS, {"dynamics_kwargs": [8]}, "dynamics_kwargs must be a dictionary"),
        (LSD, {"iterate_each_pass": "no"}, "iterate_each_pass must be True or False, got 'no'"),
        (CSD, {"constraint_norm": "max"}, "constraint_norm must be"),
        (CSD, {"dual_lambda": 0.0}, "dual_lambda must be"),
    ],
)
def test_arguments_that_cannot_work(algorithm: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(algorithm, **kwargs)
