"""The policy over S x Z: the skill as SB3's ``state``, actions, log-probabilities, encoders, saving."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sb3_metra.common.networks import PixelEncoder
from sb3_metra.common.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SkillPolicy
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SkillPrior, SpherePrior

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 46, 48), np.uint8)
DICT = spaces.Dict({"place": VECTOR, "camera": IMAGE})
ACTIONS = spaces.Box(np.array([-1.0, 0.0, -7.0], np.float32), np.array([1.0, 10.0, -3.0], np.float32))


def make_policy(
    kind: type[SkillPolicy] = MlpPolicy,
    space: spaces.Space = VECTOR,
    prior: SkillPrior | None = None,
    actions: spaces.Box = ACTIONS,
    **kwargs: Any,
) -> SkillPolicy:
    prior = SpherePrior(2) if prior is None else prior
    return kind(space, actions, lambda _: 1e-3, prior, **({"net_arch": [8]} | kwargs))


def observations_of(space: spaces.Space, n: int) -> Any:
    samples = [space.sample() for _ in range(n)]
    return (
        {key: np.stack([x[key] for x in samples]) for key in space}
        if isinstance(space, spaces.Dict)
        else np.stack(samples)
    )


def conditioned(n: int, policy: SkillPolicy | None = None) -> dict[str, th.Tensor]:
    dim = 2 if policy is None else policy.skill_prior.dim
    return {"observation": th.randn(n, 3), "skill": nn.functional.normalize(th.randn(n, dim))}


# The predictor protocol


@pytest.mark.parametrize("prior", [SpherePrior(3), GaussianPrior(2), OneHotPrior(5)], ids=repr)
def test_without_a_state_each_observation_gets_a_skill_of_its_own(prior: SkillPrior) -> None:
    policy = make_policy(prior=prior)
    actions, skills = policy.predict(observations_of(VECTOR, 40))
    assert actions.shape == (40, 3)
    assert skills.shape == (40, prior.dim)
    assert len(np.unique(skills, axis=0)) == (5 if prior.discrete else 40)
    prior.validate(skills)
    again = policy.predict(observations_of(VECTOR, 40))[1]
    assert not np.array_equal(again, skills)


def test_a_state_is_kept() -> None:
    policy = make_policy()
    given = policy.skill_prior.sample(4)
    _, kept = policy.predict(observations_of(VECTOR, 4), state=given)
    assert np.array_equal(kept, given)
    assert kept is not given
    kept[:] = 0.0
    assert given.any()  # what comes back is the caller's to change
    _, kept = policy.predict(observations_of(VECTOR, 4), state=given, episode_start=np.zeros(4, bool))
    assert np.array_equal(kept, given)


def test_a_new_episode_draws_a_skill_and_the_others_keep_theirs() -> None:
    policy = make_policy()
    given = policy.skill_prior.sample(4)
    starts = np.array([True, False, True, False])
    _, skills = policy.predict(observations_of(VECTOR, 4), state=given, episode_start=starts)
    assert np.array_equal(skills[~starts], given[~starts])
    assert (skills[starts] != given[starts]).any(axis=1).all()
    policy.skill_prior.validate(skills)
    _, skills = policy.predict(observations_of(VECTOR, 4), state=given, episode_start=np.ones(4))  # as SB3's first call
    assert (skills != given).any(axis=1).all()


def test_one_skill_for_many_observations() -> None:
    policy = make_policy()
    for skill in (np.array([0.6, 0.8]), np.array([[0.6, 0.8]], np.float32), [0.6, 0.8]):
        _, skills = policy.predict(observations_of(VECTOR, 5), state=skill)
        assert skills.dtype == np.float32
        assert np.allclose(skills, np.tile([0.6, 0.8], (5, 1)))


def test_shapes_of_a_single_observation() -> None:
    policy = make_policy()
    observation = VECTOR.sample()
    action, skill = policy.predict(observation)
    assert (action.shape, skill.shape) == ((3,), (2,))
    action, kept = policy.predict(observation, state=skill, episode_start=np.array([False]))
    assert np.array_equal(kept, skill)
    _, kept = policy.predict(observation, state=skill[None], deterministic=True)
    assert np.array_equal(kept, skill)


def test_the_skill_matters_and_a_deterministic_action_is_the_mode() -> None:
    policy = make_policy()
    observation = observations_of(VECTOR, 1)
    east, west = (
        policy.predict(observation, state=np.array(z), deterministic=True)[0] for z in ([1.0, 0.0], [-1.0, 0.0])
    )
    assert not np.allclose(east, west)
    assert np.array_equal(policy.predict(observation, state=np.array([1.0, 0.0]), deterministic=True)[0], east)
    stochastic = [policy.predict(observation, state=np.array([1.0, 0.0]))[0] for _ in range(2)]
    assert not np.array_equal(*stochastic)
    with th.no_grad():
        mean = policy.actor.get_action_dist_params(
            {"observation": th.as_tensor(observation), "skill": th.tensor([[1.0, 0.0]])}
        )[0]
    expected = ACTIONS.low + 0.5 * (np.tanh(mean.numpy()) + 1.0) * (ACTIONS.high - ACTIONS.low)
    assert np.allclose(east, expected, atol=1e-5)


def test_actions_fill_an_asymmetric_box() -> None:
    """A saturated actor reaches the bounds of each component and never leaves them."""
    policy = make_policy()
    with th.no_grad():
        policy.actor.mu.bias.copy_(th.tensor([100.0, -100.0, 100.0]))
    actions, _ = policy.predict(observations_of(VECTOR, 3), deterministic=True)
    assert np.allclose(actions, np.tile([1.0, 0.0, -3.0], (3, 1)))
    with th.no_grad():
        policy.actor.mu.bias.zero_()
        policy.actor.log_std.bias.fill_(3.0)
    actions, _ = policy.predict(observations_of(VECTOR, 500))
    assert (actions >= ACTIONS.low).all()
    assert (actions <= ACTIONS.high).all()
    assert np.allclose(actions.min(axis=0), ACTIONS.low, atol=0.01)
    assert np.allclose(actions.max(axis=0), ACTIONS.high, atol=0.01)


def test_actions_of_more_than_one_axis() -> None:
    policy = make_policy(actions=spaces.Box(-1.0, 1.0, (2, 3), np.float32))
    assert policy.predict(observations_of(VECTOR, 4))[0].shape == (4, 2, 3)
    assert policy.predict(VECTOR.sample())[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.array([1.0, 0.0, 0.0]), r"skill must have shape \(2,\) or \(n, 2\), got \(3,\)"),
        (np.array([2.0, 0.0]), "skill must have norm 1"),
        (np.array([np.nan, 0.0]), "skill must be finite"),
        (np.eye(2), "state must hold one skill for each of the 3 observations, got 2"),
    ],
)
def test_invalid_skills_are_refused(state: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy().predict(observations_of(VECTOR, 3), state=state)


def test_invalid_observations_are_refused() -> None:
    policy = make_policy()
    with pytest.raises(ValueError, match=r"observation must be an array or a dict, got a tuple: `env.reset\(\)`"):
        policy.predict((VECTOR.sample(), {}))
    with pytest.raises(ValueError, match="observation must be finite, got NaN or infinity"):
        policy.predict(np.array([0.0, np.inf, 0.0], np.float32))
    with pytest.raises(ValueError, match="shape"):
        policy.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="place must be finite"):
        make_policy(MultiInputPolicy, DICT).predict({"place": np.full(3, np.nan), "camera": IMAGE.sample()})


# The actor


def test_log_probability_is_that_of_a_squashed_gaussian() -> None:
    policy = make_policy(prior=SpherePrior(2))
    inputs, noise = conditioned(64), th.randn(64, 3)
    actions, log_prob = policy.actor.action_log_prob(inputs, noise)
    mean, log_std, _ = policy.actor.get_action_dist_params(inputs)
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])
    assert th.allclose(actions, th.tanh(mean + log_std.exp() * noise))
    assert log_prob.shape == (64, 1)
    assert actions.abs().max() < 0.9999  # where the 1e-6 inside the logarithm is felt, both differ on purpose
    assert th.allclose(log_prob.squeeze(1), squashed.log_prob(actions), atol=0.02)
    unsaturated = actions.abs().amax(dim=1) < 0.9
    assert unsaturated.sum() > 10
    assert th.allclose(log_prob.squeeze(1)[unsaturated], squashed.log_prob(actions)[unsaturated], atol=5e-5)


def test_log_probability_of_one_sample_by_hand() -> None:
    policy = make_policy(actions=spaces.Box(-1.0, 1.0, (1,), np.float32))
    with th.no_grad():
        for head, value in ((policy.actor.mu, 0.3), (policy.actor.log_std, math.log(0.5))):
            head.weight.zero_()
            head.bias.fill_(value)
    action, log_prob = policy.actor.action_log_prob(conditioned(1), th.tensor([[2.0]]))
    assert action.item() == pytest.approx(math.tanh(1.3))
    gaussian = -0.5 * 2.0**2 - math.log(0.5) - 0.5 * math.log(2.0 * math.pi)
    assert log_prob.item() == pytest.approx(gaussian - math.log(1.0 - math.tanh(1.3) ** 2 + 1e-6), rel=1e-6)


def test_bounds_of_the_deviation() -> None:
    policy = make_policy()
    with th.no_grad():
        policy.actor.log_std.bias.copy_(th.tensor([-50.0, 50.0, 0.0]))
    log_std = policy.actor.get_action_dist_params(conditioned(2))[1]
    assert log_std[:, 0].tolist() == pytest.approx([math.log(1e-6)] * 2)
    assert log_std[:, 1].tolist() == [2.0, 2.0]
    assert log_std[:, 2].abs().max() < 1.0


@pytest.mark.parametrize("hard", [False, True])
def test_a_deviation_beyond_its_bounds_can_come_back(hard: bool) -> None:
    """A step goes against the gradient: from 5 down, from -20 up; further away, never."""
    policy = make_policy(hard_bounds=hard)
    with th.no_grad():
        policy.actor.log_std.weight.zero_()
        policy.actor.log_std.bias.copy_(th.tensor([5.0, 5.0, -20.0]))
    log_std = policy.actor.get_action_dist_params(conditioned(1))[1]
    (log_std * th.tensor([3.0, -3.0, -7.0])).sum().backward()
    assert policy.actor.log_std.bias.grad.tolist() == ([0.0, 0.0, 0.0] if hard else [3.0, 0.0, -7.0])
    policy.actor.log_std.bias.grad = None
    with th.no_grad():
        policy.actor.log_std.bias.copy_(th.tensor([2.0, 0.5, -13.0]))
    log_std = policy.actor.get_action_dist_params(conditioned(1))[1]
    (log_std * th.tensor([-3.0, 4.0, 7.0])).sum().backward()  # within: as without bounds
    assert policy.actor.log_std.bias.grad.tolist() == [-3.0, 4.0, 7.0]


def test_actor_gain_scales_the_first_mean_alone() -> None:
    actor = make_policy(net_arch=[300, 200], actor_gain=3.0).actor
    for head, gain in ((actor.mu, 3.0), (actor.log_std, 0.1)):
        assert head.weight.std().item() == pytest.approx(gain * math.sqrt(2.0 / (200 + 3)), rel=0.15)


def test_initial_weights_of_actor_and_critics() -> None:
    """Actor: xavier-uniform, its heads a tenth of xavier-normal, tanh. Critics: xavier-normal, ReLU. All biases 0."""
    policy = make_policy(net_arch=[300, 200])
    uniform = policy.actor.latent_pi[0]
    bound = math.sqrt(6.0 / (5 + 300))
    assert 0.97 * bound < uniform.weight.abs().max().item() <= bound
    for head in (policy.actor.mu, policy.actor.log_std):
        assert head.weight.std().item() == pytest.approx(0.1 * math.sqrt(2.0 / (200 + 3)), rel=0.15)
    for q_network in policy.critic.q_networks:
        assert q_network[2].weight.std().item() == pytest.approx(math.sqrt(2.0 / 500), rel=0.05)
        assert q_network[0].weight.std().item() == pytest.approx(math.sqrt(2.0 / (300 + 8)), rel=0.1)
    linears = [m for net in (policy.actor, policy.critic) for m in net.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 4 + 6
    assert not any(layer.bias.any() for layer in linears)
    assert {type(policy.actor.latent_pi[i]) for i in (1, 3)} == {nn.Tanh}
    assert {type(q[i]) for q in policy.critic.q_networks for i in (1, 3)} == {nn.ReLU}
    assert not th.equal(*(q[0].weight for q in policy.critic.q_networks))


# The critics


def test_critics_see_observation_skill_and_action() -> None:
    policy = make_policy()
    inputs, actions = conditioned(6), th.rand(6, 3) * 2 - 1
    q_values = policy.critic(inputs, actions)
    stacked = th.cat([inputs["observation"], inputs["skill"], actions], dim=1)
    assert len(q_values) == 2
    for q_value, q_network in zip(q_values, policy.critic.q_networks, strict=True):
        assert th.equal(q_value, q_network(stacked))


def test_target_critics_begin_as_copies_and_are_not_learnt() -> None:
    policy = make_policy()
    for (name, target), critic in zip(policy.critic_target.named_parameters(), policy.critic.parameters(), strict=True):
        assert th.equal(target, critic), name
        assert target is not critic
        assert not target.requires_grad
    policy.set_training_mode(True)
    assert policy.critic.training
    assert not policy.critic_target.training


@pytest.mark.parametrize("shared", [False, True])
def test_encoders_of_the_critics(shared: bool) -> None:
    policy = make_policy(CnnPolicy, IMAGE, share_critic_encoder=shared, features_extractor_kwargs={"depth": 2})
    assert len(policy.critic.encoders) == (1 if shared else 2)
    encoders = [policy.actor.features_extractor, *policy.critic.encoders, *policy.critic_target.encoders]
    parameters = [id(parameter) for encoder in encoders for parameter in encoder.parameters()]
    assert len(set(parameters)) == len(parameters) == (8 * (3 if shared else 5))
    images = th.randint(0, 256, (2, 3, 46, 48), dtype=th.uint8)
    inputs, actions = {"observation": images, "skill": th.eye(2)}, th.zeros(2, 3)
    first, second = policy.critic(inputs, actions)
    first.sum().backward()
    touched = [encoder.extractor.cnn[0].weight.grad is not None for encoder in policy.critic.encoders]
    assert touched == ([True] if shared else [True, False])
    assert not th.equal(first, second)


@pytest.mark.parametrize("n_critics", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_other_numbers_of_critics(n_critics: int, shared: bool) -> None:
    policy = make_policy(n_critics=n_critics, share_critic_encoder=shared)
    assert len(policy.critic(conditioned(2), th.zeros(2, 3))) == n_critics


# Kinds of observations


@pytest.mark.parametrize(
    ("kind", "space", "kwargs", "extractor"),
    [
        (MlpPolicy, VECTOR, {}, FlattenExtractor),
        (MlpPolicy, IMAGE, {}, FlattenExtractor),
        (CnnPolicy, IMAGE, {"features_extractor_kwargs": {"depth": 2}}, PixelEncoder),
        (CnnPolicy, IMAGE, {"features_extractor_class": NatureCNN}, NatureCNN),
        (MultiInputPolicy, DICT, {}, CombinedExtractor),
        (MlpPolicy, spaces.Discrete(4), {}, FlattenExtractor),
        (MlpPolicy, spaces.MultiBinary(3), {}, FlattenExtractor),
    ],
)
def test_kinds_of_observations(kind: Any, space: spaces.Space, kwargs: Any, extractor: type, tmp_path: Path) -> None:
    policy = make_policy(kind, space, **kwargs)
    assert type(policy.actor.features_extractor.extractor) is extractor
    observations = observations_of(space, 4)
    skills = policy.skill_prior.sample(4)
    actions, _ = policy.predict(observations, skills, deterministic=True)
    assert actions.shape == (4, 3)
    first = {key: x[0] for key, x in observations.items()} if isinstance(observations, dict) else observations[0]
    single, _ = policy.predict(first, skills[0], deterministic=True)
    assert np.allclose(single, actions[0], atol=1e-5)

    policy.save(tmp_path / "policy.pth")
    loaded = kind.load(tmp_path / "policy.pth", device="cpu")
    assert np.array_equal(loaded.predict(observations, skills, deterministic=True)[0], actions)
    assert all(th.equal(x, loaded.state_dict()[name]) for name, x in policy.state_dict().items())


def test_a_saved_policy_keeps_its_arguments(tmp_path: Path) -> None:
    policy = make_policy(
        prior=OneHotPrior(4),
        net_arch={"pi": [6], "qf": [5, 5]},
        actor_activation_fn=nn.ReLU,
        activation_fn=nn.ELU,
        n_critics=3,
        share_critic_encoder=True,
        optimizer_class=th.optim.SGD,
        optimizer_kwargs={"momentum": 0.9},
    )
    policy.save(tmp_path / "policy.pth")
    loaded = MlpPolicy.load(tmp_path / "policy.pth", device="cpu")
    assert isinstance(loaded.skill_prior, OneHotPrior)
    assert loaded.skill_prior.dim == 4
    assert str(loaded) == str(policy)
    assert isinstance(loaded.actor.optimizer, th.optim.SGD)
    assert loaded.critic.optimizer.param_groups[0]["momentum"] == 0.9


def test_images_are_divided_by_255_once() -> None:
    policy = make_policy(CnnPolicy, IMAGE, features_extractor_kwargs={"depth": 2})
    images = th.randint(0, 256, (2, 3, 46, 48), dtype=th.uint8)
    features = policy.actor.features_extractor.extractor.cnn(images.float() / 255.0)
    latent = policy.actor.latent_pi(th.cat([features, th.eye(2)], dim=1))
    mean = policy.actor.get_action_dist_params({"observation": images, "skill": th.eye(2)})[0]
    assert th.allclose(mean, policy.actor.mu(latent), atol=1e-6)
    features = policy.critic.encoders[1].extractor.cnn(images.float() / 255.0)
    stacked = th.cat([features, th.eye(2), th.zeros(2, 3)], dim=1)
    q_value = policy.critic({"observation": images, "skill": th.eye(2)}, th.zeros(2, 3))[1]
    assert th.allclose(q_value, policy.critic.q_networks[1](stacked), atol=1e-6)


@pytest.mark.parametrize("extractor", [PixelEncoder, NatureCNN])
def test_images_that_are_scaled_already(extractor: type) -> None:
    space = spaces.Box(0.0, 1.0, (3, 46, 48), np.float32)
    policy = make_policy(CnnPolicy, space, features_extractor_class=extractor, normalize_images=False)
    assert policy.predict(observations_of(space, 2))[0].shape == (2, 3)


def test_images_with_channels_last_are_turned_round() -> None:
    policy = make_policy(CnnPolicy, IMAGE, features_extractor_kwargs={"depth": 2})
    image, skill = IMAGE.sample(), np.array([1.0, 0.0])
    first, _ = policy.predict(image, skill, deterministic=True)
    last, _ = policy.predict(image.transpose(1, 2, 0), skill, deterministic=True)
    assert np.array_equal(first, last)


@pytest.mark.parametrize(
    ("kwargs", "fused"),
    [
        ({}, True),
        ({"optimizer_kwargs": {"weight_decay": 0.1}}, True),
        ({"optimizer_kwargs": {"fused": False}}, False),
        ({"optimizer_class": th.optim.RMSprop}, None),
    ],
)
def test_adam_is_fused_unless_said_otherwise(kwargs: dict[str, Any], fused: bool | None) -> None:
    policy = make_policy(**kwargs)
    assert policy.actor.optimizer.defaults.get("fused") == fused
    assert policy.critic.optimizer.param_groups[0]["lr"] == 1e-3
