"""Networks that know nothing of learning: the pixel encoder, the skill-aware extractor, and phi."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, create_mlp
from torch import nn

from sb3_metra.common.arguments import integer, number
from sb3_metra.common.goal_spaces import DESIRED, has_goal, without_goal
from sb3_metra.common.type_aliases import Observations

_MIN_IMAGE = 36  # pixels that SB3's convolutions for images in a dictionary need


class StandardizingConv2d(nn.Conv2d):
    """
    A convolution of (x - mean) / std that never computes it: both numbers go into a copy of the weights.

    :param args: arguments of ``torch.nn.Conv2d``, without padding
    :param mean: subtracted from the input
    :param std: what it is divided by afterwards
    :param kwargs: further arguments of ``torch.nn.Conv2d``
    """

    def __init__(self, *args: Any, mean: float, std: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mean, self.std = mean, std

    def forward(self, input: th.Tensor) -> th.Tensor:
        assert self.bias is not None
        weight = self.weight / self.std
        return self._conv_forward(input, weight, self.bias - self.mean * weight.sum(dim=(1, 2, 3)))


class PixelEncoder(BaseFeaturesExtractor):
    """
    The paper's image encoder: four convolutions of kernel 4 and stride 2 with ELU, flattened.

    A 64x64 image gives ``8 * depth * 4`` features: 1536 with the default depth.

    :param observation_space: images, (channels, height, width), at least 46 pixels high and wide
    :param depth: channels of the first convolution; each further one has twice as many
    :param normalized_image: accept float images that are scaled already, as SB3's own extractors do
    :param channels_last: keep channels last in memory, for which convolutions are faster but round otherwise
    :param mean: subtracted from images, which lie in [0, 1]
    :param std: what they are divided by afterwards; the paper standardises states by constants, and images not at all
    :raises ValueError: if the space holds no such image
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        depth: int = 48,
        normalized_image: bool = False,
        channels_last: bool = True,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        if not is_image_space(observation_space, check_channels=False, normalized_image=normalized_image):
            raise ValueError(
                f"CnnPolicy needs uint8 images in [0, 255] with three axes as observations, got {observation_space}; "
                "use MlpPolicy for vectors and MultiInputPolicy for dictionaries"
            )
        assert observation_space.shape is not None
        channels, height, width = observation_space.shape
        height_out, width_out = _size_after_convolutions(height), _size_after_convolutions(width)
        depth, mean, std = integer(1)("depth", depth), number()("mean", mean), number(above=0)("std", std)
        if min(height_out, width_out) < 1:
            raise ValueError(f"observation must be an image of at least 46x46 pixels, got {height}x{width}")
        super().__init__(observation_space, 8 * depth * height_out * width_out)
        if (mean, std) == (0.0, 1.0):
            first = nn.Conv2d(channels, depth, kernel_size=4, stride=2)
        else:
            first = StandardizingConv2d(channels, depth, kernel_size=4, stride=2, mean=mean, std=std)
        layers: list[nn.Module] = [first, nn.ELU()]
        for i in range(3):
            layers += [nn.Conv2d(depth << i, depth << (i + 1), kernel_size=4, stride=2), nn.ELU()]
        self.channels_last = channels_last
        self.cnn: nn.Module = nn.Sequential(*layers, nn.Flatten())
        self.cnn.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # PyTorch's signature lacks it

    @property
    def memory_format(self) -> th.memory_format:
        """How images lie in memory."""
        return th.channels_last if self.channels_last else th.contiguous_format

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.cnn(observations.contiguous(memory_format=self.memory_format))


class SkillExtractor(BaseFeaturesExtractor):
    """
    Features of an observation with the skill appended.

    :param observation_space: the space S x Z, a Dict with the keys ``observation`` and ``skill``
    :param extractor_class: extractor for the observation, one of SB3's or your own
    :param extractor_kwargs: its keyword arguments
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        extractor_class: type[BaseFeaturesExtractor],
        extractor_kwargs: dict[str, Any],
    ) -> None:
        skill_space = observation_space["skill"]
        assert skill_space.shape is not None
        extractor = make_extractor(observation_space["observation"], extractor_class, extractor_kwargs)
        super().__init__(observation_space, extractor.features_dim + skill_space.shape[0])
        self.extractor = extractor

    def forward(self, observations: dict[str, Any]) -> th.Tensor:
        return th.cat([self.extractor(observations["observation"]), observations["skill"]], dim=1)


class Representation(BaseModel):
    """
    phi: S -> R^dim, an extractor and a multilayer perceptron. It never sees a skill.

    :param observation_space: the environment's observations
    :param action_space: the environment's actions, kept for SB3's interface only
    :param dim: dimension of the latent space, that of the skill
    :param net_arch: units of each hidden layer
    :param activation_fn: non-linearity of the hidden layers
    :param features_extractor_class: extractor for the observation
    :param features_extractor_kwargs: its keyword arguments
    :param normalize_images: divide images by 255
    :param normalize_steps: scale the components of a vector so that a step changes all of them alike. The scale
        is set once, before the first gradient step. Places, which change little in a step, count as much as velocities
    """

    step_scale: th.Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        dim: int,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        normalize_steps: bool = False,
    ) -> None:
        extractor_kwargs = (
            {} if features_extractor_class is None else {"features_extractor_class": features_extractor_class}
        )
        super().__init__(
            observation_space,
            action_space,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            **extractor_kwargs,  # type: ignore[arg-type]
        )
        self.features_extractor = make_extractor(
            observation_space, self.features_extractor_class, self.features_extractor_kwargs
        )
        features_dim = self.features_extractor.features_dim
        if normalize_steps and any(True for _ in self.features_extractor.parameters()):
            raise ValueError(f"normalize_steps=True needs vectors as observations, got {observation_space}")
        self.register_buffer("step_scale", th.ones(features_dim) if normalize_steps else None)
        hidden = [1024, 1024] if net_arch is None else net_arch
        self.hidden = nn.Sequential(*create_mlp(features_dim, -1, hidden, activation_fn))
        self.out = nn.Linear(hidden[-1] if hidden else features_dim, dim)
        for module in (self.hidden, self.out):
            initialize(module, nn.init.xavier_uniform_)

    def forward(self, observations: Observations) -> th.Tensor:
        """
        :param observations: (batch, \\*obs_shape), as they come from the environment
        :return: phi, (batch, dim), in single precision under autocast, too: what counts are its small differences
        """
        assert self.features_extractor is not None
        features = self.extract_features(observations, self.features_extractor)
        hidden = self.hidden(features if self.step_scale is None else features * self.step_scale)
        with th.autocast(hidden.device.type, enabled=False):
            return self.out(hidden.float())

    def extract_features(self, obs: Any, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: (batch, \\*obs_shape), as they come from the environment, or prepared
        :param features_extractor: an extractor for them
        """
        return features_extractor(prepare(obs, self.observation_space, self.normalize_images))

    @th.no_grad()
    def fit_steps(self, observations: Observations, next_observations: Observations) -> None:
        """
        Set the scale of ``normalize_steps``: the median component's root mean square change in a step over its own.

        :param observations: s, (batch, \\*obs_shape)
        :param next_observations: s', (batch, \\*obs_shape)
        """
        assert self.features_extractor is not None
        before, after = (self.extract_features(x, self.features_extractor) for x in (observations, next_observations))
        change = (after - before).square().mean(dim=0).sqrt()
        assert self.step_scale is not None
        moves = change > 0  # what never changes keeps its scale
        self.step_scale[moves] = change[moves].median() / change[moves]

    def displacement(self, observations: Observations, next_observations: Observations) -> th.Tensor:
        """
        phi(s') - phi(s), in two passes, as the authors do, and no slower than one pass over both.

        A bias of the last layer, or of a unit that is active everywhere, does not change a displacement. The gradients
        of the two passes cancel exactly there, where the rounding error of a joint sum would be a full step for Adam.

        :param observations: s, (batch, \\*obs_shape)
        :param next_observations: s', (batch, \\*obs_shape)
        :return: (batch, dim)
        """
        here = self(observations)
        return self(next_observations) - here


def find_activation(activation_fn: Any) -> Any:
    """
    A non-linearity, perhaps by its name.

    :param activation_fn: a class, a function that makes a module, or the name of a class in ``torch.nn``
    :raises ValueError: if PyTorch has no module of that name
    """
    found = getattr(nn, activation_fn, None) if isinstance(activation_fn, str) else activation_fn
    if not callable(found):
        raise ValueError(f"activation_fn must be a class of torch.nn or its name, got {activation_fn!r}")
    return found


def make_mlp(
    input_dim: int, output_dim: int, net_arch: list[int] | None = None, activation_fn: str | type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """
    A multilayer perceptron with phi's initial weights.

    :param input_dim: components of its input
    :param output_dim: components of its output
    :param net_arch: units of each hidden layer (default: ``[1024, 1024]``)
    :param activation_fn: non-linearity of the hidden layers, a class or its name in ``torch.nn``
    """
    hidden = [1024, 1024] if net_arch is None else net_arch
    network = nn.Sequential(*create_mlp(input_dim, output_dim, hidden, find_activation(activation_fn)))
    initialize(network, nn.init.xavier_uniform_)
    return network


def flatten_state(observations: Observations) -> th.Tensor:
    """
    Prepared observations as one vector each.

    :param observations: (batch, \\*obs_shape), or a dictionary of them
    :return: (batch, :func:`state_dim`)
    """
    if isinstance(observations, dict):
        shown = sorted(observations.keys() - ({DESIRED} if has_goal(observations) else set()))
        return th.cat([observations[key].flatten(1) for key in shown], dim=1)
    return observations.flatten(1)


def state_dim(space: spaces.Space, method: str) -> int:
    """
    Components of a state as one vector.

    :param space: the environment's observations
    :param method: the method that predicts states, to name in an error
    :raises ValueError: if there are images among the observations
    """
    space = without_goal(space)
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if any(is_image_space(part) for part in parts):
        raise ValueError(f"observation_space must hold vectors for {method}, which predicts states, got {space}")
    return sum(get_flattened_obs_dim(part) for part in parts)


def make_extractor(
    space: spaces.Space, extractor_class: type[BaseFeaturesExtractor], kwargs: dict[str, Any]
) -> BaseFeaturesExtractor:
    """
    A new extractor, for all of an observation but a desired goal.

    :param space: observations
    :param extractor_class: one of SB3's or your own
    :param kwargs: its keyword arguments; with ``normalized_image``, images are floats, and their channels come first
    :raises ValueError: if it cannot read such observations
    """
    space = without_goal(space)
    for key, part in space.items() if isinstance(space, spaces.Dict) else [("observation", space)]:
        shape = part.shape
        image = is_image_space(part, normalized_image=kwargs.get("normalized_image", False))
        if image and issubclass(extractor_class, CombinedExtractor) and sorted(part.shape)[1] < _MIN_IMAGE:  # type: ignore[arg-type]
            raise ValueError(
                f"{key} must be an image of at least {_MIN_IMAGE}x{_MIN_IMAGE} pixels in a dictionary, got shape "
                f"{shape}: wrap the environment in FlattenObservation, or give a features_extractor_class"
            )
        if kwargs.get("normalized_image") and shape is not None and len(shape) == 3 and min(shape) != shape[0]:
            raise ValueError(
                f"{key} must be an image with channels first if normalize_images=False, got shape {shape}: let the "
                "environment move its last axis to the front"
            )
    try:
        return extractor_class(space, **kwargs)
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise ValueError(
            f"features_extractor_class must be able to read observations of {space}, got {extractor_class.__name__}, "
            f"which says: {' '.join(str(error).split())}"
        ) from error


def prepare(observations: Any, space: spaces.Space, normalize_images: bool = True) -> Any:
    """
    Observations as networks take them: SB3's ``preprocess_obs``, but what is floating-point already only becomes single
    precision, so that a batch that was prepared once can be given to every network.

    :param observations: (batch, \\*obs_shape), a tensor or a dictionary of tensors
    :param space: their space
    :param normalize_images: divide images by 255
    :return: the same in single precision; what is in bfloat16 already stays so under autocast
    """
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        return {key: prepare(x, space[key], normalize_images) for key, x in observations.items()}
    if observations.dtype == th.bfloat16 and th.is_autocast_enabled(observations.device.type):
        return observations
    if observations.is_floating_point():
        return _as_vectors(observations.float())
    floats = preprocess_obs(_from_zero(observations, space), space, normalize_images=False)
    assert isinstance(floats, th.Tensor)
    return _as_vectors(floats.div_(255.0) if normalize_images and is_image_space(space) else floats)


def _as_vectors(observations: th.Tensor) -> th.Tensor:
    """Scalars as vectors of one component; anything else as it is."""
    return observations.unsqueeze(1) if observations.ndim == 1 else observations


def _from_zero(observations: th.Tensor, space: spaces.Space) -> th.Tensor:
    """Discrete observations counted from 0, without a copy to the device, which a CUDA graph cannot record."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        return observations - int(space.start)
    if isinstance(space, spaces.MultiDiscrete) and np.any(space.start != 0):
        columns = zip(observations.unbind(dim=1), space.start.tolist(), strict=True)
        return th.stack([column - start for column, start in columns], dim=1)
    return observations


def initialize(module: nn.Module, weight_init: Any, gain: float = 1.0) -> None:
    """
    Give every linear layer inside ``module`` fresh weights and a zero bias.

    :param module: a layer or a container of layers
    :param weight_init: an initialiser of ``torch.nn.init`` that takes ``gain``
    :param gain: scale of the weights
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            weight_init(layer.weight, gain=gain)
            nn.init.zeros_(layer.bias)


def _size_after_convolutions(size: int) -> int:
    for _ in range(4):
        size = (size - 4) // 2 + 1
    return size
