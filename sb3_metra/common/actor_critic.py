"""pi(a|s, z) and Q(s, a, z) for continuous actions: SB3's actor and critic over S x Z."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor
from torch import nn
from torch.distributions import Normal

from sb3_metra.common.networks import initialize, prepare

LOG_STD_MIN = math.log(1e-6)
LOG_STD_MAX = 2.0
NOT_FINITE = "actions must be finite, got NaN or infinity from the actor: look at its weights"
_SQUASH_EPSILON = 1e-6  # inside the logarithm of the squashing correction, as in the authors' code


class ReturningClamp(th.autograd.Function):
    """
    A log standard deviation within its bounds. Beyond them, a gradient that leads back passes, and no other does: a
    clamp's is zero there, so that nothing ever brings the standard deviation back.
    """

    @staticmethod
    def forward(ctx: Any, log_std: th.Tensor) -> th.Tensor:
        """
        :param ctx: PyTorch's
        :param log_std: of any shape
        """
        ctx.save_for_backward(log_std)
        return log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        """
        :param ctx: PyTorch's
        :param gradient: of the loss, which a step goes against
        """
        (log_std,) = ctx.saved_tensors
        outwards = (log_std > LOG_STD_MAX) & (gradient < 0) | (log_std < LOG_STD_MIN) & (gradient > 0)
        return gradient.masked_fill(outwards, 0.0)


class SkillActor(Actor):
    """SB3's squashed Gaussian actor with the paper's bounds for the standard deviation and explicit noise."""

    default_share: ClassVar[float] = 0.5
    hard_bounds = False  # see SkillPolicy

    @property
    def entropy_unit(self) -> float:
        """The entropy of which ``target_entropy="auto_0.5"`` takes half, in nats: minus the components of an action."""
        return -float(get_action_dim(self.action_space))

    @property
    def device(self) -> th.device:
        """Where the network is; SB3 walks through all modules for it, at every step."""
        weight = self.mu.weight
        assert isinstance(weight, th.Tensor)
        return weight.device

    def initialize(self, gain: float) -> None:
        """
        Fresh weights, the authors'.

        :param gain: scale of the weights behind the mean
        """
        initialize(self.latent_pi, nn.init.xavier_uniform_)
        for head, scale in ((self.mu, gain), (self.log_std, 0.1)):
            initialize(head, nn.init.xavier_normal_, scale)  # type: ignore[arg-type]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        :param obs: observation and skill, each (batch, ...)
        :return: mean and log standard deviation before squashing, each (batch, action_dim), and nothing else
        """
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        log_std = self.log_std(latent).float()  # type: ignore[operator]
        hard = self.hard_bounds or not th.is_grad_enabled()
        bounded = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX) if hard else ReturningClamp.apply(log_std)
        return self.mu(latent).float(), bounded, {}

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...), as they come from the environment, or prepared
        :param features_extractor: an extractor for both
        """
        return features_extractor(prepare(obs, self.observation_space, self.normalize_images))

    def forward(self, obs: PyTorchObs, deterministic: bool = False, noise: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...)
        :param deterministic: take the mode instead of a sample
        :param noise: draws from N(0, 1) behind the sample, (batch, action_dim); drawn here if not given
        :return: actions in [-1, 1], (batch, action_dim)
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        if deterministic:
            return th.tanh(mean)
        return th.tanh(mean + log_std.exp() * (th.randn_like(mean) if noise is None else noise))

    def draw_noise(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """
        What :meth:`forward` makes samples of, from a generator other than PyTorch's.

        :param n: number of samples
        :param rng: generator to draw with
        :return: draws from N(0, 1), (n, action_dim)
        """
        return rng.standard_normal((n, get_action_dim(self.action_space)), dtype=np.float32)

    def action_log_prob(self, obs: PyTorchObs, noise: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        A reparametrised sample and its log-probability.

        :param obs: observation and skill, each (batch, ...)
        :param noise: draws from N(0, 1) behind the sample, (batch, action_dim); drawn here if not given
        :return: actions in [-1, 1], (batch, action_dim), and log pi(a|s, z), (batch, 1)
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        std = log_std.exp()
        gaussian = mean + std * (th.randn_like(mean) if noise is None else noise)
        actions = th.tanh(gaussian)
        # written out as the authors do: with a tiny std the rounding of `gaussian` is part of the result
        log_prob = Normal(mean, std, validate_args=False).log_prob(gaussian)
        correction = th.log(1.0 - actions.square() + _SQUASH_EPSILON)
        return actions, (log_prob.sum(dim=1) - correction.sum(dim=1)).unsqueeze(1)

    @staticmethod
    def expectation(values: th.Tensor, log_prob: th.Tensor) -> th.Tensor:
        """
        The expectation over actions of what was computed for those that :meth:`action_log_prob` gave.

        :param values: (batch, k)
        :param log_prob: of the sampled actions, (batch, 1)
        :return: the sample itself, (batch, k)
        """
        return values

    def to_array(self, actions: th.Tensor) -> np.ndarray:
        """
        Actions in the shape of their space.

        :param actions: from :meth:`forward`, (batch, action_dim)
        :return: in [-1, 1], (batch, \\*action_shape)
        :raises ValueError: if they are not finite
        """
        array = actions.cpu().numpy()
        if not np.vdot(array, array) < np.inf:
            raise ValueError(NOT_FINITE)
        return array.reshape(-1, *self.action_space.shape)


class QNetworks(BaseModel, ABC):
    """
    Q-functions over S x A x Z, each with its own encoder of the observation, or all with one.

    :param observation_space: the space S x Z
    :param action_space: actions
    :param net_arch: units of each hidden layer
    :param features_extractors: one for all Q-functions, or one for each
    :param n_critics: number of Q-functions
    :param activation_fn: non-linearity of the hidden layers
    :param normalize_images: divide images by 255
    :param critic_dim: components of a value: 1, or skill_dim for successor features
    :param layer_norm: normalise each hidden layer before its non-linearity
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractors: list[BaseFeaturesExtractor],
        n_critics: int = 2,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        critic_dim: int = 1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_images=normalize_images)
        self.critic_dim = critic_dim
        self.encoders = nn.ModuleList(features_extractors)
        seen, output_dim = self.sizes()
        input_dim = features_extractors[0].features_dim + seen
        norms: list[type[nn.Module]] = [nn.LayerNorm] if layer_norm else []
        self.q_networks = nn.ModuleList(
            nn.Sequential(*create_mlp(input_dim, output_dim, net_arch, activation_fn, post_linear_modules=norms))
            for _ in range(n_critics)
        )
        initialize(self.q_networks, nn.init.xavier_normal_)

    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Components of what a network sees of an action, and its outputs."""

    def outputs(self, obs: PyTorchObs, *actions: th.Tensor) -> list[th.Tensor]:
        """
        :param obs: observation and skill, each (batch, ...)
        :param actions: what the networks see of actions, if they do
        :return: for each Q-function its outputs
        """
        inputs = prepare(obs, self.observation_space, self.normalize_images)
        features = [th.cat([encoder(inputs), *actions], dim=1) for encoder in self.encoders]
        features = features * (len(self.q_networks) // len(features))
        return [q_network(x).float() for q_network, x in zip(self.q_networks, features, strict=True)]


class SkillCritic(QNetworks):
    """Q-functions that see a continuous action, see :class:`QNetworks`."""

    def sizes(self) -> tuple[int, int]:
        """Components of what a network sees of an action, and its outputs."""
        return get_action_dim(self.action_space), self.critic_dim

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param obs: observation and skill, each (batch, ...)
        :param actions: in [-1, 1], (batch, action_dim)
        :return: for each Q-function its values, (batch, critic_dim)
        """
        return tuple(self.outputs(obs, actions))
