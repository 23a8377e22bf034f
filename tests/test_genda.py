"""GenDa: skills that say where an episode went, by hand, and what the actor does not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_metra import GenDa
from sb3_metra.algorithms.genda import GenDaObjective
from sb3_metra.common.extractors import Bottleneck, HiddenComponents
from sb3_metra.common.networks import Representation
from sb3_metra.common.skill_counts import SkillCounts
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SpherePrior
from sb3_metra.common.type_aliases import EpisodeObservations, SkillReplayBufferSamples
from tests.toys import TINY, same, scripted_envs, state_of

PLANE = spaces.Box(-np.inf, np.inf, (2,), np.float32)


def identity(prior: Any = None, **kwargs: Any) -> GenDaObjective:
    """An objective whose phi, and its moving average, is the position."""
    prior = SpherePrior(2) if prior is None else prior
    phi = Representation(PLANE, spaces.Box(-1, 1, (1,)), prior.dim, net_arch=[])
    with th.no_grad():
        phi.out.weight.copy_(th.eye(2))
    return GenDaObjective(prior, phi, **kwargs)


def batch_of(first: list[Any], here: list[Any], last: list[Any], ahead: list[Any], skills: list[Any]) -> Any:
    first, here, last, ahead, skills = (th.tensor(x, dtype=th.float32) for x in (first, here, last, ahead, skills))
    zeros = th.zeros(len(here), 1)
    episode = EpisodeObservations(first, last, ahead)
    return SkillReplayBufferSamples(here, zeros, here + 0.5, zeros, zeros, skills, episode)


EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
BATCH = batch_of([[0, 0], [0, 0]], [[1, 1], [2, 0]], [[3, 0], [0, 4]], [[1, 2], [1, 0]], [NORTH, EAST])


def test_phi_learns_with_the_direction_of_the_whole_episode() -> None:
    objective = identity(uniformity_coef=0.0, phi_tau=0.0)
    _, info = objective.loss(BATCH)
    # dphi = (0.5, 0.5); the episodes went east and north, whatever their skills were
    assert info["alignment"].tolist() == pytest.approx([0.5, 0.5])
    assert th.equal(objective.skill_of(BATCH.episode.first, BATCH.episode.last), th.tensor([EAST, NORTH]))


def test_the_uniformity_loss_by_hand() -> None:
    objective = identity(phi_tau=0.0)
    loss, info = objective.loss(BATCH)
    assert info["uniformity_loss"].item() == pytest.approx(0.0)  # log exp(east . north)
    alike = BATCH._replace(episode=BATCH.episode._replace(last=th.tensor([[3.0, 0.0], [5.0, 0.0]])))
    assert objective.loss(alike)[1]["uniformity_loss"].item() == pytest.approx(1.0)
    assert identity(phi_tau=0.0, uniformity_coef=0.0).loss(BATCH)[0].item() == pytest.approx(loss.item(), abs=1e-6)
    three = th.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    triple = batch_of([[0, 0]] * 3, [[0, 0]] * 3, three.tolist(), [[1, 0]] * 3, [EAST] * 3)
    expected = np.mean([np.log(np.e + 1), np.log(np.e + 1), np.log(2)])
    assert objective.loss(triple)[1]["uniformity_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_policy_learns_with_both_directions_unless_a_skill_is_rare() -> None:
    objective = identity(keep_threshold=0.0)  # nothing is rare
    relabelled = th.stack([objective.relabel(BATCH).skills for _ in range(200)])
    whole, ahead = th.tensor([EAST, NORTH]), th.tensor([[0.0, 1.0], [-1.0, 0.0]])
    is_whole = (relabelled - whole).abs().amax(dim=2) < 1e-6
    assert (is_whole | ((relabelled - ahead).abs().amax(dim=2) < 1e-6)).all()
    assert is_whole.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert th.equal(identity(keep_threshold=1.1).relabel(BATCH).skills, BATCH.skills)


def test_skills_that_no_episode_follows_are_rare() -> None:
    th.manual_seed(0)
    counts, prior = SkillCounts(2, 0.4), SpherePrior(2)
    angles = th.rand(512) * np.pi - np.pi / 2  # episodes go east only
    for _ in range(500):
        counts.update(th.stack([angles.cos(), angles.sin()], dim=1), prior.draw(512))
    rare = counts.are_rare(th.tensor([[1.0, 0.0], [0.7, 0.7], [-1.0, 0.0], [-0.7, -0.7]]))
    assert rare.tolist() == [False, False, True, True]


def test_the_average_of_phi_follows_slowly() -> None:
    objective = identity(phi_tau=0.25)
    with th.no_grad():
        objective.phi.out.weight.copy_(3 * th.eye(2))
    objective.loss(BATCH)
    assert th.allclose(objective.phi_average.out.weight, 1.5 * th.eye(2))
    assert all(not parameter.requires_grad for parameter in objective.phi_average.parameters())


def test_discrete_skills() -> None:
    objective = identity(OneHotPrior(2))
    skills = objective.skill_of(th.zeros(2, 2), th.tensor([[3.0, 1.0], [-5.0, -1.0]]))
    assert skills.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="norm 1 or discrete for GenDa"):
        identity(GaussianPrior(2))


def make(**kwargs: Any) -> GenDa:
    return GenDa("MlpPolicy", scripted_envs(2), **(TINY | kwargs))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"skill_dim": 3, "discrete": True},
        {"bottleneck_dim": 4},
        {"policy_kwargs": {"net_arch": [8], "layer_norm": True, "actor_extractor_class": HiddenComponents}},
    ],
)
def test_it_learns_and_is_saved(kwargs: dict[str, Any], tmp_path: Any) -> None:
    again = make(**kwargs).learn(96)
    model = make(**kwargs)
    before = state_of(model)
    model.learn(96)
    after = state_of(model)
    assert same(after, state_of(again))
    phi = next(name for name in before if name.endswith("phi.out.weight"))
    assert not th.equal(before[phi], after[phi])
    assert {"train/uniformity_loss", "train/kept_skills"} - set(model.logger.name_to_value) <= {
        "train/uniformity_loss" if kwargs.get("discrete") else ""
    }
    model.save(tmp_path / "model")
    loaded = GenDa.load(tmp_path / "model", device="cpu")
    observation = np.ones(3, np.float32)
    skill = model.skill_prior.sample(1)[0]
    expected = model.predict(observation, state=skill, deterministic=True)[0]
    assert np.array_equal(loaded.predict(observation, state=skill, deterministic=True)[0], expected)


def test_the_actor_does_not_see_what_is_hidden() -> None:
    arch = {"net_arch": [8], "actor_extractor_class": HiddenComponents, "actor_extractor_kwargs": {"hidden": [1]}}
    model = make(policy_kwargs=arch)
    skill = model.skill_prior.sample(1)[0]
    here, there = np.array([1, 2, 3], np.float32), np.array([1, 50, 3], np.float32)
    act = [model.predict(x, state=skill, deterministic=True)[0] for x in (here, there)]
    assert np.array_equal(*act)
    assert not np.array_equal(model.encode(here), model.encode(there))
    with pytest.raises(ValueError, match=r"hidden must be some, not all, of the components 0 to 2, got \[5\]"):
        make(policy_kwargs=arch | {"actor_extractor_kwargs": {"hidden": [5]}})


def test_the_code_of_the_bottleneck_is_learnt_by_its_own_loss_alone() -> None:
    model = make(bottleneck_dim=4)
    extractor = model.actor.features_extractor.extractor
    assert isinstance(extractor, Bottleneck)
    before = [x.clone() for x in extractor.parameters()]
    model.learn(24)
    before = [x.clone() for x in extractor.parameters()]
    batch = model.sample(16)
    failed = th.zeros(())
    model._step("actor", model.actor.optimizer, model.actor_loss, batch, failed)
    assert all(th.equal(x, y) for x, y in zip(before, extractor.parameters(), strict=True)) if failed == 0 else False
    model._step("objective", model.objective_optimizer, model.objective.loss, batch, failed)
    assert not th.equal(before[0], next(iter(extractor.parameters())))


def test_the_networks_of_the_code_can_be_chosen() -> None:
    model = make(bottleneck_dim=4, policy_kwargs={"net_arch": [8], "actor_extractor_kwargs": {"net_arch": [16]}})
    widths = [
        layer.out_features for layer in model.actor.features_extractor.extractor.encoder if hasattr(layer, "weight")
    ]
    assert widths == [16, 2 * 4]


def test_the_loss_of_the_bottleneck_by_hand() -> None:
    bottleneck = Bottleneck(PLANE, 1, phi_dim=1, net_arch=[], kl_coef=2.0)
    with th.no_grad():
        for parameter in bottleneck.parameters():
            parameter.zero_()
    std = np.exp(-1.5)  # tanh(0) lies in the middle between -5 and 2
    expected = (1 + 4) + 2.0 * 0.5 * (std**2 - 1 + 3)
    assert bottleneck.loss(th.tensor([[1.0, 2.0]]), th.zeros(1, 1)).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="must hold vectors for the bottleneck"):
        Bottleneck(spaces.Box(0, 255, (3, 64, 64), np.uint8), phi_dim=2)
