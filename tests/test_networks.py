"""Networks: what they compute, how they begin, and which of their gradients vanish exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

from sb3_metra.common.networks import PixelEncoder, Representation, SkillExtractor, initialize
from sb3_metra.common.spaces import check_finite

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 64, 64), np.uint8)


def test_the_papers_encoder_has_1536_features() -> None:
    encoder = PixelEncoder(spaces.Box(0, 255, (9, 64, 64), np.uint8))
    convolutions = [layer for layer in encoder.cnn if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [48, 96, 192, 384]
    assert [layer.in_channels for layer in convolutions] == [9, 48, 96, 192]
    assert {(layer.kernel_size, layer.stride, layer.padding) for layer in convolutions} == {((4, 4), (2, 2), (0, 0))}
    assert encoder.features_dim == 1536
    assert encoder(th.zeros(2, 9, 64, 64)).shape == (2, 1536)


def test_the_encoder_is_four_convolutions_with_elu() -> None:
    encoder = PixelEncoder(IMAGE, depth=2)
    x = images = th.rand(2, 3, 64, 64)
    for i in range(4):
        layer = encoder.cnn[2 * i]
        x = F.elu(F.conv2d(x, layer.weight, layer.bias, stride=2))
    assert th.equal(encoder(images), x.flatten(1))
    assert encoder.features_dim == 8 * 2 * 4


def test_images_may_be_standardised() -> None:
    images = th.rand(2, 3, 64, 64)
    plain, standard = PixelEncoder(IMAGE, depth=1), PixelEncoder(IMAGE, depth=1, mean=0.5, std=0.1)
    standard.load_state_dict(plain.state_dict())
    th.testing.assert_close(standard(images), plain((images - 0.5) / 0.1), rtol=1e-4, atol=1e-5)
    standard(images).square().sum().backward()
    plain((images - 0.5) / 0.1).square().sum().backward()
    for ours, expected in zip(standard.parameters(), plain.parameters(), strict=True):
        th.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="std must be a finite number greater than 0, got 0"):
        PixelEncoder(IMAGE, std=0.0)


@pytest.mark.parametrize(("shape", "features"), [((1, 46, 46), 8), ((3, 84, 64), 8 * 3 * 2), ((3, 94, 46), 8 * 4)])
def test_features_of_other_sizes(shape: tuple[int, ...], features: int) -> None:
    encoder = PixelEncoder(spaces.Box(0, 255, shape, np.uint8), depth=1)
    assert encoder.features_dim == features
    assert encoder(th.zeros(1, *shape)).shape == (1, features)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (3, 45, 64), np.uint8), "observation must be an image of at least 46x46 pixels, got 45x64"),
        (VECTOR, "CnnPolicy needs uint8 images .* got Box.* use MlpPolicy"),
        (spaces.Box(0.0, 1.0, (3, 64, 64), np.float32), "CnnPolicy needs uint8 images"),
        (spaces.Dict({"image": IMAGE}), "CnnPolicy needs uint8 images .* MultiInputPolicy for dictionaries"),
    ],
)
def test_observations_that_are_no_images_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelEncoder(space)


def test_scaled_images_are_accepted_where_asked_for() -> None:
    space = spaces.Box(0.0, 1.0, (3, 64, 64), np.float32)
    assert PixelEncoder(space, depth=1, normalized_image=True).features_dim == 32


def test_the_skill_is_appended_to_the_features() -> None:
    space = spaces.Dict({"observation": VECTOR, "skill": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    extractor = SkillExtractor(space, FlattenExtractor, {})
    observations, skills = th.randn(4, 3), th.randn(4, 2)
    assert extractor.features_dim == 5
    features = extractor({"skill": skills, "observation": observations})
    assert th.equal(features, th.cat([observations, skills], dim=1))


def test_phi_is_a_multilayer_perceptron() -> None:
    phi = Representation(VECTOR, ACTIONS, dim=2, net_arch=[7, 5], activation_fn=nn.Tanh)
    observations = th.randn(6, 3)
    first, second = phi.hidden[0], phi.hidden[2]
    expected = phi.out(th.tanh(second(th.tanh(first(observations)))))
    assert th.allclose(phi(observations), expected)
    assert [tuple(p.shape) for p in phi.parameters()] == [(7, 3), (7,), (5, 7), (5,), (2, 5), (2,)]
    default = Representation(VECTOR, ACTIONS, dim=4)
    assert [tuple(p.shape) for p in default.parameters()][::2] == [(1024, 3), (1024, 1024), (4, 1024)]


def test_phi_divides_images_by_255() -> None:
    phi = Representation(
        IMAGE, ACTIONS, 2, [4], features_extractor_class=PixelEncoder, features_extractor_kwargs={"depth": 1}
    )
    images = th.randint(0, 256, (2, 3, 64, 64), dtype=th.uint8)
    assert isinstance(phi.features_extractor, PixelEncoder)
    features = phi.features_extractor.cnn(images.float() / 255.0)
    assert th.allclose(phi(images), phi.out(phi.hidden(features)))


def test_phi_of_dictionaries() -> None:
    space = spaces.Dict({"a": VECTOR, "b": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    phi = Representation(space, ACTIONS, 2, [4], features_extractor_class=CombinedExtractor)
    here, there = ({"a": th.randn(5, 3), "b": th.randn(5, 1)} for _ in range(2))
    assert phi(here).shape == (5, 2)
    assert th.equal(phi.displacement(here, there), phi(there) - phi(here))
    assert not th.equal(phi.displacement(here, there), th.zeros(5, 2))


def test_phi_takes_other_extractors() -> None:
    phi = Representation(IMAGE, ACTIONS, 3, [4], features_extractor_class=NatureCNN)
    assert phi(th.zeros(2, 3, 64, 64, dtype=th.uint8)).shape == (2, 3)


def test_gradients_that_vanish_in_theory_vanish_exactly() -> None:
    """
    A displacement does not depend on the bias of the last layer, nor on that of a unit that is active for every s and
    s'. Adam would turn a rounding error there into a step of full size.
    """
    phi = Representation(VECTOR, ACTIONS, dim=2, net_arch=[16, 16])
    with th.no_grad():
        phi.hidden[0].bias.add_(100.0)
        phi.hidden[2].weight.abs_()
    optimizer = th.optim.Adam(phi.parameters(), lr=1e-3)
    biases = [phi.hidden[0].bias, phi.hidden[2].bias, phi.out.bias]
    before = [bias.detach().clone() for bias in biases]
    for _ in range(3):
        s = th.randn(256, 3)
        optimizer.zero_grad()
        (phi.displacement(s, s + 0.1 * th.randn(256, 3)) * th.randn(256, 2)).mean().backward()
        optimizer.step()
    assert all(th.equal(bias.detach(), old) for bias, old in zip(biases, before, strict=True))
    assert phi.out.weight.grad is not None
    assert phi.out.weight.grad.abs().min() > 0


def test_phi_keeps_single_precision_under_autocast() -> None:
    """A displacement of 1 where phi is 1000: in bfloat16 the next number after 1000 is 1004."""
    phi = Representation(VECTOR, ACTIONS, dim=1, net_arch=[])
    with th.no_grad():
        phi.out.weight.copy_(th.tensor([[1.0, 0.0, 0.0]]))
        phi.out.bias.fill_(1000.0)
    s = th.zeros(1, 3)
    with th.autocast("cpu", dtype=th.bfloat16):
        displacement = phi.displacement(s, s + th.tensor([1.0, 0.0, 0.0]))
    assert displacement.dtype == th.float32
    assert displacement.item() == 1.0


def test_initial_weights_of_phi() -> None:
    phi = Representation(VECTOR, ACTIONS, dim=2, net_arch=[400, 300])
    for layer in (phi.hidden[0], phi.hidden[2], phi.out):
        assert isinstance(layer, nn.Linear)
        bound = math.sqrt(6.0 / (layer.in_features + layer.out_features))  # xavier, uniform
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3.0), rel=0.1)
        assert layer.bias.abs().max().item() == 0.0


def test_steps_are_normalised_to_the_median_component() -> None:
    phi = Representation(spaces.Box(-1, 1, (4,)), ACTIONS, dim=2, net_arch=[8], normalize_steps=True)
    states = th.randn(6, 4)
    before = phi(states)
    changes = th.tensor([[0.1, 2.0, -4.0, 0.0], [-0.1, 2.0, 4.0, 0.0]]).repeat(3, 1)
    phi.fit_steps(states - changes, states)
    scale = th.tensor([20.0, 1.0, 0.5, 1.0])  # median change 2; the last one never changes
    th.testing.assert_close(phi.step_scale, scale, rtol=1e-4, atol=0.0)
    th.testing.assert_close(phi(states / scale), before, rtol=1e-3, atol=1e-4)


def test_steps_of_images_are_not_normalised() -> None:
    with pytest.raises(ValueError, match="normalize_steps=True needs vectors as observations, got"):
        Representation(
            spaces.Box(0, 255, (3, 46, 46), np.uint8),
            ACTIONS,
            dim=2,
            features_extractor_class=PixelEncoder,
            normalize_steps=True,
        )


def test_initialize_reaches_every_linear_layer_and_nothing_else() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Sequential(nn.Linear(50, 50)), nn.Linear(50, 40))
    kept = net[0].weight.detach().clone()
    initialize(net, nn.init.xavier_normal_, gain=0.1)
    assert th.equal(net[0].weight.detach(), kept)
    for layer in (net[1][0], net[2]):
        expected = 0.1 * math.sqrt(2.0 / (layer.in_features + layer.out_features))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.array([0.0, np.nan]), "observation must be finite, got NaN or infinity from there$"),
        (np.array([[-np.inf]]), "observation must be finite"),
        ({"a": np.zeros(2), "b": np.array([np.inf])}, "b must be finite"),
        ((np.zeros(2), {}), r"got a tuple: `env.reset\(\)` returns"),
    ],
)
def test_what_is_not_finite_is_refused(observations: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_finite(observations, "from there")
    check_finite({"a": np.zeros(2), "b": np.zeros(2, np.uint8)})
