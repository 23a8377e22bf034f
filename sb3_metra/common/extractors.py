"""What the actor sees of an observation, if not all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_metra.common.arguments import shorten
from sb3_metra.common.networks import initialize
from sb3_metra.common.type_aliases import Observations

_LOG_STD_RANGE = (-5.0, 2.0)


class HiddenComponents(BaseFeaturesExtractor):
    """
    All components of a vector but some, so that a skill does not depend on them: hide x and y, and it works anywhere.

    :param observation_space: vectors
    :param hidden: numbers of the components to leave out
    :raises ValueError: if the space holds no vectors, or has no such components
    """

    def __init__(self, observation_space: spaces.Space, hidden: Sequence[int] = (0, 1)) -> None:
        size = _vector_size(observation_space, "HiddenComponents")
        wrong = [i for i in hidden if not isinstance(i, (int, np.integer)) or not 0 <= i < size]
        if wrong or len(set(hidden)) == size:
            raise ValueError(f"hidden must be some, not all, of the components 0 to {size - 1}, got {list(hidden)}")
        shown = [i for i in range(size) if i not in set(hidden)]
        super().__init__(observation_space, len(shown))
        self.register_buffer("shown", th.tensor(shown))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.index_select(1, self.shown)  # type: ignore[arg-type]


class ObservationFunction(BaseFeaturesExtractor):
    """
    What a function makes of an observation.

    :param observation_space: vectors
    :param function: from tensors (batch, size) to (batch, k)
    :raises ValueError: if the space holds no vectors, or the function gives something else
    """

    def __init__(self, observation_space: spaces.Space, function: Callable[[th.Tensor], th.Tensor]) -> None:
        try:
            seen: Any = function(th.zeros(2, _vector_size(observation_space, "a function")))
            fits = seen.ndim == 2 and len(seen) == 2 and seen.shape[1] > 0
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            seen, fits = error, False
        if not fits:
            got = tuple(seen.shape) if isinstance(seen, th.Tensor) else shorten(seen)
            raise ValueError(
                f"actor_observation must be a function that gives a tensor of shape (batch, k), got {got} for 2 vectors"
            )
        super().__init__(observation_space, seen.shape[1])
        self.function = function

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.function(observations)


def choose_actor_extractor(actor_observation: Any, env: VecEnv | None, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Arguments of a policy whose actor sees a part of each observation.

    :param actor_observation: names of components to see, or with a minus of those to hide, as the environment's
        ``metadata["observation_names"]`` has them; a mask, true for what is seen; or a function of tensors
    :param env: training environments
    :param policy_kwargs: the policy's other arguments
    :raises ValueError: if it is something else, or the environment has no such names
    """
    if policy_kwargs.get("actor_extractor_class") is not None:
        raise ValueError(
            f"actor_observation must be None if the actor has an extractor of its own, got {actor_observation!r}"
        )
    if callable(actor_observation):
        return _extractor(ObservationFunction, function=actor_observation)
    entries = list(actor_observation) if isinstance(actor_observation, (list, tuple, np.ndarray)) else []
    if env is not None and entries and all(isinstance(x, str) for x in entries):
        return _find_hidden(entries, env)
    size = _vector_size(env.observation_space, "actor_observation") if env is not None else len(entries)
    if env is None or len(entries) != size or not all(isinstance(x, (bool, np.bool_)) for x in entries):
        raise ValueError(
            f"actor_observation must be names such as ['-x', '-y'], a mask of True and False for each of the {size} "
            f"components, or a function, got {shorten(actor_observation)}"
        )
    return _hide([i for i, seen in enumerate(entries) if not seen], size, entries)


def _extractor(kind: type[BaseFeaturesExtractor], **kwargs: Any) -> dict[str, Any]:
    return {"actor_extractor_class": kind, "actor_extractor_kwargs": kwargs}


def _hide(hidden: list[int], size: int, entries: list[Any]) -> dict[str, Any]:
    if len(hidden) == size:
        raise ValueError(f"actor_observation must be such that a component is seen, got {entries}, which hides all")
    return _extractor(HiddenComponents, hidden=hidden)


def _find_hidden(entries: list[str], env: VecEnv) -> dict[str, Any]:
    """The extractor without the components that names hide."""
    names = list((env.get_attr("metadata")[0] or {}).get("observation_names", ()))
    if not names:
        raise ValueError(
            f"actor_observation must be a mask or a function if env.metadata has no observation_names, got {entries}"
        )
    hide = [x.removeprefix("-") for x in entries if x.startswith("-")]
    unknown = [x for x in entries if x.removeprefix("-") not in names]
    if unknown or (hide and len(hide) < len(entries)):
        raise ValueError(
            f"actor_observation must be names among {', '.join(names)}, all of them with a minus or none, got {entries}"
        )
    hidden = [i for i, name in enumerate(names) if (name in hide if hide else name not in entries)]
    return _hide(hidden, len(names), entries)


class Bottleneck(BaseFeaturesExtractor):
    """
    A stochastic code of a vector, whose mean the actor sees (GenDa, arXiv 2607.00392: complementary bottleneck).

    The actor's loss does not change it; :meth:`loss` does, which the objective minimises.

    :param observation_space: vectors
    :param dim: components of the code
    :param phi_dim: components of phi
    :param net_arch: units of each hidden layer
    :param kl_coef: weight of the divergence of the code from a standard normal distribution
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        dim: int = 256,
        *,
        phi_dim: int,
        net_arch: Sequence[int] = (1024, 1024),
        kl_coef: float = 0.1,
    ) -> None:
        size = _vector_size(observation_space, "the bottleneck")
        super().__init__(observation_space, dim)
        self.kl_coef = kl_coef
        self.encoder = nn.Sequential(*create_mlp(size, 2 * dim, list(net_arch)))
        self.decoder = nn.Sequential(*create_mlp(phi_dim + dim, size, list(net_arch)))
        for network in (self.encoder, self.decoder):
            initialize(network, nn.init.xavier_uniform_)

    @classmethod
    def policy_kwargs(cls, given: dict[str, Any] | None, dim: int, phi_dim: int) -> dict[str, Any]:
        """
        Arguments of a policy whose actor sees a code.

        :param given: the policy's other arguments; ``actor_extractor_kwargs`` in them go to the code
        :param dim: components of the code
        :param phi_dim: components of phi
        """
        given = given or {}
        own = {**(given.get("actor_extractor_kwargs") or {}), "dim": dim, "phi_dim": phi_dim}
        return {**given, "actor_extractor_class": cls, "actor_extractor_kwargs": own}

    def encode(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        The code's distribution.

        :param observations: (batch, size)
        :return: its mean and log standard deviation, each (batch, dim)
        """
        mean, spread = self.encoder(observations).chunk(2, dim=1)
        low, high = _LOG_STD_RANGE
        return mean, low + 0.5 * (high - low) * (spread.tanh() + 1.0)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        with th.no_grad():
            return self.encode(observations)[0]

    def loss(self, observations: Observations, latents: th.Tensor) -> th.Tensor:
        """
        How badly an observation follows from phi and the code, plus what the code costs, so that the
        code leaves out what phi shows already.

        :param observations: (batch, size)
        :param latents: phi of them, (batch, phi_dim), without gradient
        :return: scalar
        """
        assert isinstance(observations, th.Tensor)
        mean, log_std = self.encode(observations)
        code = mean + log_std.exp() * th.randn_like(mean)
        errors = (self.decoder(th.cat([latents, code], dim=1)) - observations).square().sum(dim=1)
        divergence = 0.5 * ((2.0 * log_std).exp() + mean.square() - 1.0 - 2.0 * log_std).sum(dim=1)
        return (errors + self.kl_coef * divergence).mean()


def _vector_size(space: spaces.Space, who: str) -> int:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observation_space must hold vectors for {who}, got {space}")
    return space.shape[0]
