"""What a model orders from collectors, what they answer, and what every kind of collectors has in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_metra.common.arguments import Check, check_table, integer, optional, shorten
from sb3_metra.common.arrays import map_arrays

Weights = dict[str, np.ndarray]
"""Of an actor, by name."""

CHECKS: dict[str, Check] = {
    "n": integer(1),
    "max_staleness": optional(integer(0)),
    "max_episode_steps": integer(1),
}
"""What arguments of collectors must be."""

_OTHERS = {
    "overlap": (False, "they act beside the gradient steps already, if max_staleness is above 0"),
    "random_warmup": (False, "they act by the policy"),
    "action_noise": (None, "they act by the policy alone"),
}
MOST_LOSSES = 3
"""Of one collector without an answer in between, or of one order: more, and what it runs is at fault."""


@dataclass(frozen=True)
class Kit:
    """
    What a collector is made of.

    :param env: an environment's registered name, or a function that makes one
    :param n_envs: number of environments
    :param observation_space: the model's
    :param action_space: the model's
    :param policy: a policy with an actor alone, on the CPU
    :param max_episode_steps: steps in which an episode must end
    """

    env: str | Callable[[], Any]
    n_envs: int
    observation_space: spaces.Space
    action_space: spaces.Space
    policy: Any
    max_episode_steps: int


@dataclass(frozen=True)
class Order:
    """
    What a collector is asked for: one whole episode in each of its environments.

    :param number: counts orders
    :param round: whose weights to act by
    :param skills: of the episodes, (n_envs, skill_dim)
    :param random_state: state of PyTorch's generator that actions are drawn with, bytes
    :param begin: ``{"seeds": ...}`` or ``{"states": ...}`` to begin with, one for each environment; ``None``: go on
    :param losses: how many collectors were lost that ran these skills before
    """

    number: int
    round: int
    skills: np.ndarray
    random_state: np.ndarray
    begin: dict[str, list[Any]] | None
    losses: int = 0


@dataclass(frozen=True)
class Episode:
    """
    A whole episode of T steps.

    :param skill: (skill_dim,)
    :param observations: (T + 1, \\*obs_shape), or a dictionary of such; the last one ended the episode
    :param actions: in [-1, 1], or discrete ones, (T, \\*action_shape)
    :param rewards: the environment's, (T,)
    :param infos: what the environment returned
    """

    skill: np.ndarray
    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    infos: Infos

    def __len__(self) -> int:
        return len(self.rewards)

    def observation(self, step: int) -> Any:
        """
        The observation before a step, in a batch of one.

        :param step: from 0; T for the last observation
        """
        return map_arrays(lambda x: x[step : step + 1], self.observations)


class Infos:
    """
    The ``info`` of each step, in columns: small as a message.

    :param infos: a dictionary for each step
    """

    def __init__(self, infos: list[dict[str, Any]]) -> None:
        shared = set(infos[0]).intersection(*infos[1:])
        self._columns = {key: _as_column([info[key] for info in infos]) for key in infos[0] if key in shared}
        rest = {t: {key: x for key, x in info.items() if key not in shared} for t, info in enumerate(infos)}
        self._rest = {t: info for t, info in rest.items() if info}

    def at(self, step: int) -> dict[str, Any]:
        """
        The ``info`` of a step.

        :param step: from 0
        """
        return {key: column[step] for key, column in self._columns.items()} | self._rest.get(step, {})


def _as_column(values: list[Any]) -> Any:
    """An array if that gives the same values back, else the list."""
    first = values[0]
    if isinstance(first, (np.ndarray, np.generic)) and first.dtype != object:
        alike = (type(x) is type(first) and x.dtype == first.dtype and x.shape == first.shape for x in values)
        if all(alike):
            return np.stack(values)
    return values


def join(parts: Iterable[Any]) -> Any:
    """
    One batch of several.

    :param parts: arrays, or dictionaries of arrays, with a first axis for the batch
    """
    batches = list(parts)
    if isinstance(batches[0], dict):
        return {key: np.concatenate([x[key] for x in batches]) for key in batches[0]}
    return np.concatenate(batches)


@dataclass(frozen=True)
class Answer:
    """
    What came of an order.

    :param episodes: one of each environment
    :param random_state: state of PyTorch's generator afterwards, bytes
    """

    episodes: list[Episode]
    random_state: np.ndarray


@dataclass(frozen=True)
class Lost:
    """
    The answer of a collector that died or hung and is replaced: its order will not be answered.

    :param reason: where it was, and what it reported last
    """

    reason: str


def check_others(arguments: Mapping[str, Any], where: str = "") -> None:
    """
    Refuse arguments of a model that do not go with collectors.

    :param arguments: by name
    :param where: where they were given, to end an error with
    :raises ValueError: for the first that does not
    """
    for name, (expected, reason) in _OTHERS.items():
        if (got := arguments.get(name, expected)) is not expected:
            what = f"{name} must be {expected} with collectors, got {shorten(got)} {where}".rstrip()
            raise ValueError(f"{what}: {reason}")


class Collectors(ABC):
    """
    Collectors that run whole episodes for a model. How they are reached is up to subclasses.

    :param env: an environment's registered name, or a function that makes one
    :param n: number of collectors
    :param max_staleness: how many rounds old the weights of an episode may be; older episodes are dropped.
        0: each round waits for episodes of its own weights, and a run depends on its seed alone. ``None``: twice ``n``
    :param max_episode_steps: steps in which an episode must end
    :raises ValueError: for an argument that does not fit
    """

    def __init__(
        self,
        env: str | Callable[[], Any],
        n: int = 1,
        max_staleness: int | None = None,
        max_episode_steps: int = 10_000,
    ) -> None:
        if not isinstance(env, str) and not callable(env):
            raise ValueError(
                f"env must be an environment's registered name, or a function that makes one, got {shorten(env)}"
            )
        self.env = env
        read = check_table(CHECKS, {"n": n, "max_staleness": max_staleness, "max_episode_steps": max_episode_steps})
        self.n: int = read["n"]
        self.max_staleness: int = 2 * self.n if max_staleness is None else read["max_staleness"]
        self.max_episode_steps: int = read["max_episode_steps"]
        self._kit: Kit | None = None
        self._losses = [0] * self.n  # of each collector, since its last answer

    @property
    def is_open(self) -> bool:
        """Whether the collectors are there."""
        return self._kit is not None

    def open(self, kit: Kit) -> bool:
        """
        Make the collectors, unless they are there.

        :param kit: what each is made of
        :return: whether they were made
        :raises ValueError: if one cannot be made, or if they serve another model
        """
        if self._kit is not None and self._kit is not kit:
            raise ValueError("collectors must serve one model, got another one: make others, or close() these first")
        if self._kit is not None:
            return False
        self._losses = [0] * self.n
        try:
            self._open(kit)
        except BaseException:
            self.close()
            raise
        self._kit = kit
        return True

    def close(self) -> None:
        """End the collectors, and what they are running; the next call of ``learn`` makes new ones."""
        self._kit = None
        self._close()

    @abstractmethod
    def _open(self, kit: Kit) -> None:
        """Make the collectors."""

    @abstractmethod
    def _close(self) -> None:
        """End the collectors that are there."""

    @abstractmethod
    def ready(self) -> list[int]:
        """Which collectors are there, by index."""

    @abstractmethod
    def send(self, index: int, order: Order, weights: Weights) -> None:
        """
        Give an order to a collector that has none.

        :param index: of the collector
        :param order: the order
        :param weights: of the actor, the same for all orders of a round
        """

    def receive(self, wait: bool) -> list[tuple[int, Answer | Lost]]:
        """
        Answers to orders, each once. If there is none, another collector may have become ready.

        :param wait: wait until there is something
        :return: indices of collectors, each with the answer
        :raises RuntimeError: if a collector is lost again and again
        :raises Exception: what an episode raised
        """
        answers = self._receive(wait)
        for index, answer in answers:
            if not isinstance(answer, Lost):
                self._losses[index] = 0
                continue
            self._losses[index] += 1
            if self._losses[index] > MOST_LOSSES:
                raise RuntimeError(
                    f"collectors must answer, got collector {index} lost {self._losses[index]} times in a row, the "
                    f"last time because {answer.reason}"
                )
            warnings.warn(f"collector {index} is replaced, because {answer.reason}", stacklevel=2)
        return answers

    @abstractmethod
    def _receive(self, wait: bool) -> list[tuple[int, Answer | Lost]]:
        """As :meth:`receive`; whoever is lost, is being replaced."""

    @abstractmethod
    def states(self, index: int) -> list[Any] | None:
        """
        The states of a collector's environments between two orders.

        :param index: of the collector
        :return: one for each environment; ``None`` if they cannot give them
        """
