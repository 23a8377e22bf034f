"""pi(a|s, z) and Q(s, a, z) for actions that can be counted: a probability and a value for each (arXiv 1910.07207)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_metra.common.actor_critic import NOT_FINITE, QNetworks
from sb3_metra.common.counted_actions import CountedActions
from sb3_metra.common.networks import initialize, prepare


class CategoricalActor(BasePolicy):
    """
    A probability for every action; where an action has several components, for every combination of them.

    :param observation_space: the space S x Z
    :param action_space: actions
    :param net_arch: units of each hidden layer
    :param features_extractor: extractor for observation and skill
    :param features_dim: components of its features
    :param activation_fn: non-linearity of the hidden layers
    :param normalize_images: divide images by 255
    """

    default_share: ClassVar[float] = 0.5

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.table = CountedActions(action_space)
        self.latent_pi = nn.Sequential(*create_mlp(features_dim, -1, net_arch, activation_fn))
        self.logits = nn.Linear(net_arch[-1] if net_arch else features_dim, len(self.table))

    @property
    def entropy_unit(self) -> float:
        """The entropy of which ``target_entropy="auto_0.5"`` takes half, in nats: that of uniformly random actions."""
        return math.log(len(self.table))

    @property
    def device(self) -> th.device:
        """Where the network is; SB3 walks through all modules for it, at every step."""
        return self.logits.weight.device

    def initialize(self, gain: float) -> None:
        """
        Fresh weights, the authors' for continuous actions.

        :param gain: scale of the weights behind the logits: how far the first policy is from a uniform one
        """
        initialize(self.latent_pi, nn.init.xavier_uniform_)
        initialize(self.logits, nn.init.xavier_normal_, gain)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...), as they come from the environment, or prepared
        :param features_extractor: an extractor for both
        """
        return features_extractor(prepare(obs, self.observation_space, self.normalize_images))

    def get_logits(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...)
        :return: logarithms of what the probabilities are proportional to, (batch, n_actions)
        """
        assert isinstance(self.features_extractor, BaseFeaturesExtractor)
        return self.logits(self.latent_pi(self.extract_features(obs, self.features_extractor))).float()

    def draw_noise(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """
        What :meth:`forward` makes samples of, from a generator other than PyTorch's.

        :param n: number of samples
        :param rng: generator to draw with
        :return: draws from Exp(1), (n, n_actions)
        """
        return rng.standard_exponential((n, len(self.table)), dtype=np.float32)

    def forward(self, obs: PyTorchObs, deterministic: bool = False, noise: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: observation and skill, each (batch, ...)
        :param deterministic: take the most probable action instead of a sample
        :param noise: draws from Exp(1) behind the sample, (batch, n_actions); drawn here if not given
        :return: actions of the environment, (batch, components); -1 below the least if the network is not finite
        """
        logits = self.get_logits(obs)
        finite = logits.sum(dim=1).isfinite()
        if not deterministic:  # the largest of logits with Gumbel noise is a sample
            logits = logits - (th.empty_like(logits).exponential_() if noise is None else noise).log()
        return self.table.actions(th.where(finite, logits.argmax(dim=1), -1))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[None, th.Tensor]:
        """
        The log-probability of every action.

        :param obs: observation and skill, each (batch, ...)
        :return: ``None``, which stands for every action, and log pi(a|s, z), (n_actions, batch, 1)
        """
        return None, self.get_logits(obs).log_softmax(dim=1).T.unsqueeze(-1)

    @staticmethod
    def expectation(values: th.Tensor, log_prob: th.Tensor) -> th.Tensor:
        """
        The expectation over actions, sum_a pi(a|s, z) f(a).

        :param values: f of every action, (n_actions, batch, k)
        :param log_prob: of every action, (n_actions, batch, 1)
        :return: (batch, k)
        """
        return (log_prob.exp() * values).sum(dim=0)

    def to_array(self, actions: th.Tensor) -> np.ndarray:
        """
        Actions in the shape and type of their space.

        :param actions: from :meth:`forward`, (batch, components)
        :return: (batch, \\*action_shape)
        :raises ValueError: if the network was not finite
        """
        array = actions.cpu().numpy()
        if (array < self.table.starts).any():
            raise ValueError(NOT_FINITE)
        return array.reshape(-1, *self.action_space.shape).astype(self.action_space.dtype)  # type: ignore[misc]


class CategoricalCritic(QNetworks):
    """Q-functions with a value for every action, see :class:`~sb3_metra.common.actor_critic.QNetworks`."""

    def sizes(self) -> tuple[int, int]:
        """Components of what a network sees of an action, and its outputs."""
        self.table = CountedActions(self.action_space)
        return 0, len(self.table) * self.critic_dim

    def forward(self, obs: PyTorchObs, actions: th.Tensor | None = None) -> tuple[th.Tensor, ...]:
        """
        :param obs: observation and skill, each (batch, ...)
        :param actions: of the environment, (batch, components); ``None``: every action
        :return: for each Q-function its values, (batch, critic_dim); of every action, (n_actions, batch, critic_dim)
        """
        shape = (-1, len(self.table), self.critic_dim)
        values = tuple(x.view(shape).movedim(1, 0) for x in self.outputs(obs))
        if actions is None:
            return values
        numbers = self.table.numbers(actions)[None, :, None].expand(1, -1, self.critic_dim)
        return tuple(x.gather(0, numbers).squeeze(0) for x in values)
