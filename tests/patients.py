"""Patients for the doctor: models whose weights are written by hand, healthy ones and worlds that make them ill."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_metra import METRA
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.envs.point import PointMassEnv

EPISODE = 24
STEP = 0.1  # of the point, along an axis


class World(PointMassEnv):
    """
    A point mass whose observation may hold more than its place.

    :param extra: what stands behind the place: ``"clock"``, ``"reward"``, ``"gait"`` (a swing), ``"noise"``
    :param scale: of the place in the observation
    :param terminate_after: steps after which an episode terminates; 0: never
    :param own_seed: draws come from this seed, whatever seed comes from outside
    :param lies_from: the step from which the body lies on its back
    :param shy: whether there is no ``info["coordinates"]``
    """

    def __init__(
        self,
        extra: str | None = None,
        scale: float = 1.0,
        terminate_after: int = 0,
        own_seed: int | None = None,
        lies_from: int = 10_000,
        shy: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.extra, self.scale, self.terminate_after, self.lies_from, self.shy = (
            extra,
            scale,
            terminate_after,
            lies_from,
            shy,
        )
        self.own_seed = own_seed
        self.observation_space = spaces.Box(-np.inf, np.inf, (2 if extra is None else 3,), np.float32)
        self.clock = 0

    @property
    def is_on_back(self) -> bool:
        return self.clock >= self.lies_from

    def _observed(self, place: np.ndarray, reward: float) -> np.ndarray:
        more = {
            None: [],
            "clock": [0.1 * self.clock],
            "reward": [reward],
            "gait": [np.sin(1.3 * self.clock)],
            "noise": [self.np_random.normal()],
        }[self.extra]
        return np.array([*(self.scale * place), *more], np.float32)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {} if self.shy else info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.clock = 0
        if self.own_seed is not None:
            seed, self.own_seed = self.own_seed, None
            self.frozen = True
        elif getattr(self, "frozen", False):
            seed = None
        place, info = super().reset(seed=seed)
        return self._observed(place, 0.0), self._told(info)

    def step(self, action: np.ndarray) -> Any:
        place, reward, _, truncated, info = super().step(action)
        self.clock += 1
        terminated = 0 < self.terminate_after <= self.clock
        return self._observed(place, reward), reward, terminated, truncated, self._told(info)


def worlds(n: int = 8, length: int = EPISODE, **kwargs: Any) -> VecEnv:
    """Worlds with episodes of a length."""
    return DummyVecEnv([lambda: gym.wrappers.TimeLimit(World(**kwargs), length) for _ in range(n)])


def hand_made(cls: type[SkillDiscovery] = METRA, env: VecEnv | None = None, **kwargs: Any) -> Any:
    """
    A model that goes where its skill points, and whose phi is the place in steps: healthy by construction.

    :param cls: METRA or a relative with phi
    :param env: worlds
    :param kwargs: of the model
    """
    small = {"policy_kwargs": {"net_arch": []}, "phi_kwargs": {"net_arch": []}, "seed": 0, "device": "cpu"}
    model = cls("MlpPolicy", worlds() if env is None else env, **(small | kwargs))  # type: ignore[arg-type]
    model._n_updates = 1
    discrete, dim = model.skill_prior.discrete, model.skill_prior.dim
    angles = np.arange(dim) * 2 * np.pi / dim
    around = th.tensor(np.stack([np.cos(angles), np.sin(angles)], axis=1), dtype=th.float32)  # (dim, 2)
    ways = around if discrete else th.eye(2)[:dim]
    set_actor(model, skill=4.0 * ways.T)
    set_phi(model, (0.8 * (2 / dim) ** 0.5 if discrete else 0.9) / STEP * ways)  # steps of 0.8 to 0.9
    return model


def set_actor(model: Any, skill: th.Tensor, place: float = 0.0) -> None:
    """
    Let the actor's mode be tanh(place * s + skill @ z).

    :param model: a model without hidden layers
    :param skill: (2, skill_dim)
    :param place: weight of the place
    """
    weight = model.actor.mu.weight.data
    weight.zero_()
    model.actor.mu.bias.data.zero_()
    weight[:, :2] = place * th.eye(2)
    weight[:, -skill.shape[1] :] = skill


def set_phi(model: Any, place: th.Tensor, extra: float = 0.0) -> None:
    """
    Let phi be place @ s, plus a weight of what stands behind the place.

    :param model: a model without hidden layers
    :param place: (skill_dim, 2)
    :param extra: of the third component of the observation
    """
    weight = model.objective.phi.out.weight.data
    weight[:, :2] = place
    weight[:, 2:] = extra
    model.objective.phi.out.bias.data.zero_()


def healthy_log(n: int = 12, **columns: Any) -> dict[str, np.ndarray]:
    """
    A log like the point mass' own.

    :param n: lines
    :param columns: to replace, by what follows ``train/``
    """
    usual: dict[str, Any] = {
        "dual_lambda": np.linspace(2.5, 11.0, n),
        "displacement_norm": np.full(n, 0.89),
        "constraint_violation": np.linspace(0.08, 0.03, n),
        "entropy": np.full(n, -1.5),
        "q_target": np.linspace(0.4, 10.0, n),
    }
    log = {f"train/{name}": np.broadcast_to(np.asarray(x, float), n) for name, x in (usual | columns).items()}
    return {"time/total_timesteps": np.arange(1.0, n + 1) * 4_000, **log}
