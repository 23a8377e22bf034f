"""The skill z and its prior p(z): sampling, checking and the direction that a skill asks phi to move in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch as th

from sb3_metra.common.arguments import FLAG, integer, shorten
from sb3_metra.common.type_aliases import Random

_TOLERANCE = 1e-3  # of a skill's norm; float32 arithmetic stays far below


class SkillPrior(ABC):
    """
    The distribution p(z) that skills are drawn from, one per episode.

    Rollouts draw with the algorithm's generator. Everything else draws with the prior's own, ``rng``, so that
    ``predict`` and evaluations do not change training. Neither uses NumPy's global state.

    :param dim: number of components of a skill, at least 1
    """

    #: Whether p(z) has finitely many skills.
    discrete: bool = False

    def __init__(self, dim: int) -> None:
        self.dim = integer(1)("skill_dim", dim)
        self.rng = np.random.default_rng()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SkillPrior) and type(self) is type(other) and self.dim == other.dim

    def __hash__(self) -> int:
        return hash((type(self), self.dim))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {"rng": np.random.default_rng()} | state  # files of before 0.2 have no generator

    @abstractmethod
    def sample(self, n: int, rng: Random | None = None) -> np.ndarray:
        """
        Draw skills from p(z).

        :param n: number of skills
        :param rng: generator to draw with; ``None``: the prior's own
        :return: skills, (n, dim), float32
        """

    @abstractmethod
    def draw(self, n: int, device: th.device | str = "cpu") -> th.Tensor:
        """
        Draw skills from p(z) inside a gradient step, with PyTorch's generator, which CUDA graphs can record.

        :param n: number of skills
        :param device: where they are needed
        :return: skills, (n, dim)
        """

    @abstractmethod
    def toward(self, direction: np.ndarray) -> np.ndarray:
        """
        The skill whose direction agrees best with a displacement: argmax_z <direction, z>.

        With ``direction = phi(goal) - phi(s)`` this is zero-shot goal reaching (METRA paper, section 5.4).

        :param direction: (..., dim), finite
        :return: skills, same shape, float32; a zero direction gives a valid skill, too
        :raises ValueError: if the direction has another dimension or is not finite
        """

    @abstractmethod
    def from_action(self, actions: np.ndarray) -> np.ndarray:
        """
        The skills that a controller's actions stand for.

        :param actions: continuous priors: (n, dim) in [-1, 1]; discrete ones: (n,), numbers of skills
        :return: (n, dim), float32
        """

    def _generator(self, rng: Random | None) -> Any:
        return self.rng if rng is None else rng

    def _direction(self, direction: np.ndarray) -> np.ndarray:
        """Check a direction."""
        try:
            array = np.asarray(direction, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"direction must be an array of numbers, got {shorten(direction)}") from None
        if array.ndim < 1 or array.shape[-1] != self.dim:
            raise ValueError(f"direction must have shape (..., {self.dim}), got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"direction must be finite, got {array.reshape(-1, self.dim)[:4].tolist()}")
        return array

    @abstractmethod
    def _violation(self, skills: np.ndarray) -> str | None:
        """Say in half a sentence why the finite ``skills``, (n, dim), cannot come from p(z), or return ``None``."""

    def embed(self, skills: th.Tensor) -> th.Tensor:
        """
        The direction in phi's space that is paired with the displacement: (phi(s') - phi(s)) . embed(z).

        :param skills: (batch, dim)
        :return: (batch, dim)
        """
        return skills

    def evaluation_skills(self, n: int, rng: Random | None = None) -> np.ndarray:
        """
        Skills to judge a repertoire by: drawn from p(z), or spread evenly over finitely many skills.

        :param n: number of skills
        :param rng: as for :meth:`sample`
        :return: (n, dim), float32
        """
        return self.sample(n, rng)

    def validate(self, skills: np.ndarray) -> np.ndarray:
        """
        Check skills that came from outside.

        :param skills: (dim,) or (n, dim)
        :return: the same skills as a float32 array
        :raises ValueError: if shape or values cannot come from p(z)
        """
        try:
            array = np.asarray(skills, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"skill must be an array of numbers, got {shorten(skills)}") from None
        if array.ndim not in (1, 2) or array.shape[-1] != self.dim:
            raise ValueError(f"skill must have shape ({self.dim},) or (n, {self.dim}), got {array.shape}")
        reason = self._violation(array.reshape(-1, self.dim)) if np.isfinite(array).all() else "must be finite"
        if reason is not None:
            raise ValueError(f"skill {reason}, got {array.reshape(-1, self.dim)[:4].tolist()}")
        return array


class SpherePrior(SkillPrior):
    """
    Skills uniform on the unit sphere of R^dim: the paper's continuous skills. With one dimension: -1 and +1.

    :param dim: number of components of a skill, at least 1
    """

    def sample(self, n: int, rng: Random | None = None) -> np.ndarray:
        draws = self._generator(rng).standard_normal((n, self.dim))
        return (draws / np.linalg.norm(draws, axis=-1, keepdims=True)).astype(np.float32)

    def draw(self, n: int, device: th.device | str = "cpu") -> th.Tensor:
        draws = th.randn(n, self.dim, device=device)
        return draws / draws.norm(dim=1, keepdim=True)

    def toward(self, direction: np.ndarray) -> np.ndarray:
        return _unit(self._direction(direction))

    def from_action(self, actions: np.ndarray) -> np.ndarray:
        return _unit(actions)

    def _violation(self, skills: np.ndarray) -> str | None:
        norms = np.linalg.norm(skills, axis=-1)
        return None if np.abs(norms - 1.0).max(initial=0.0) <= _TOLERANCE else "must have norm 1"


class GaussianPrior(SkillPrior):
    """
    Skills from the standard normal distribution of R^dim.

    :param dim: number of components of a skill, at least 1
    """

    def sample(self, n: int, rng: Random | None = None) -> np.ndarray:
        return self._generator(rng).standard_normal((n, self.dim)).astype(np.float32)

    def draw(self, n: int, device: th.device | str = "cpu") -> th.Tensor:
        return th.randn(n, self.dim, device=device)

    def toward(self, direction: np.ndarray) -> np.ndarray:
        # <direction, z> is unbounded here: take the norm that draws typically have
        return _unit(self._direction(direction)) * np.float32(math.sqrt(self.dim))

    def from_action(self, actions: np.ndarray) -> np.ndarray:
        return 2.0 * np.asarray(actions, dtype=np.float32)  # an action of 1 is two standard deviations

    def _violation(self, skills: np.ndarray) -> str | None:
        return None


class UniformPrior(SkillPrior):
    """
    Skills uniform in [-1, 1]^dim, as DADS has them.

    :param dim: number of components of a skill, at least 1
    """

    def sample(self, n: int, rng: Random | None = None) -> np.ndarray:
        return self._generator(rng).uniform(-1.0, 1.0, (n, self.dim)).astype(np.float32)

    def draw(self, n: int, device: th.device | str = "cpu") -> th.Tensor:
        return 2.0 * th.rand(n, self.dim, device=device) - 1.0

    def toward(self, direction: np.ndarray) -> np.ndarray:
        return np.where(self._direction(direction) < 0, -1.0, 1.0).astype(np.float32)

    def from_action(self, actions: np.ndarray) -> np.ndarray:
        return np.asarray(actions, dtype=np.float32)

    def _violation(self, skills: np.ndarray) -> str | None:
        inside = np.abs(skills).max(initial=0.0) <= 1.0 + _TOLERANCE
        return None if inside else "must lie in [-1, 1]"


class OneHotPrior(SkillPrior):
    """
    ``dim`` discrete skills as one-hot vectors, uniformly distributed.

    Policy and critics see the plain one-hot; phi's direction is centred and scaled, +1 for the skill and
    -1 / (dim - 1) for the others, so that directions sum to zero (METRA paper, appendix on discrete skills).

    :param dim: number of skills, at least 2
    """

    discrete = True

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        if self.dim == 1:
            raise ValueError("skill_dim must be at least 2 with discrete skills, got 1: one skill cannot differ")

    def sample(self, n: int, rng: Random | None = None) -> np.ndarray:
        return self._one_hot(self._generator(rng).choice(self.dim, size=n))

    def evaluation_skills(self, n: int, rng: Random | None = None) -> np.ndarray:
        return self._one_hot(np.arange(n) % self.dim)

    def embed(self, skills: th.Tensor) -> th.Tensor:
        return (skills * self.dim - 1.0) / (self.dim - 1.0)

    def draw(self, n: int, device: th.device | str = "cpu") -> th.Tensor:
        return th.eye(self.dim, device=device)[th.randint(self.dim, (n,), device=device)]

    def toward(self, direction: np.ndarray) -> np.ndarray:
        return self._one_hot(np.argmax(self._direction(direction), axis=-1))

    def from_action(self, actions: np.ndarray) -> np.ndarray:
        numbers = np.asarray(actions)
        if not np.isin(numbers, np.arange(self.dim)).all():
            raise ValueError(f"actions must be numbers of skills, 0 to {self.dim - 1}, got {shorten(actions)}")
        return self._one_hot(numbers.astype(np.int64))

    def _violation(self, skills: np.ndarray) -> str | None:
        one_hot = ((skills == 0.0) | (skills == 1.0)).all() and (skills.sum(axis=-1) == 1.0).all()
        return None if one_hot else "must be one-hot: a single 1, else 0"

    def _one_hot(self, index: np.ndarray) -> np.ndarray:
        return np.eye(self.dim, dtype=np.float32)[index]


def make_prior(skill_dim: int, discrete: bool = False, unit_skills: bool = True) -> SkillPrior:
    """
    The prior that the arguments of an algorithm describe.

    :param skill_dim: number of components of a skill
    :param discrete: one-hot skills instead of continuous ones
    :param unit_skills: continuous skills on the unit sphere instead of Gaussian ones
    """
    discrete, unit_skills = FLAG("discrete", discrete), FLAG("unit_skills", unit_skills)
    if discrete:
        return OneHotPrior(skill_dim)
    return SpherePrior(skill_dim) if unit_skills else GaussianPrior(skill_dim)


def _unit(direction: np.ndarray) -> np.ndarray:
    """Scale to norm 1; where there is no direction, take the first axis."""
    direction = np.asarray(direction, dtype=np.float64)
    norm = np.linalg.norm(direction, axis=-1, keepdims=True)
    first = np.eye(direction.shape[-1])[0]
    return np.where(norm > 0, direction / np.where(norm > 0, norm, 1.0), first).astype(np.float32)
