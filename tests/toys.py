"""Environments whose observations say where they come from, and models small enough to train in a blink."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from filelock import FileLock
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_metra import METRA
from sb3_metra.common.skills import SkillPrior
from sb3_metra.envs.point import PointMassEnv

TINY: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "phi_kwargs": {"net_arch": [8]},
    "learning_starts": 16,
    "batch_size": 16,
    "buffer_size": 2_000,
    "train_freq": 8,
    "gradient_steps": 2,
    "seed": 0,
    "device": "cpu",
}


class Scripted(gym.Env):
    """
    Observations are (index, episode, step). Even episodes end by termination, odd ones by truncation.

    :param index: which environment this is, the first component of its observations
    :param lengths: lengths of successive episodes, used again and again
    :param kind: ``"vector"``, ``"double"`` (64-bit floats), ``"dict"`` or ``"image"``
    :param bad: (episode, step) whose observation is spoiled
    :param value: what spoils it
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as in Gymnasium

    def __init__(
        self,
        index: int = 0,
        lengths: tuple[int, ...] = (3, 5, 1, 4),
        kind: str = "vector",
        bad: tuple[int, int] | None = None,
        value: float = np.nan,
    ) -> None:
        self.index, self.lengths, self.kind, self.bad, self.value = index, lengths, kind, bad, value
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float64 if kind == "double" else np.float32)
        image = spaces.Box(0, 255, (46, 48, 3), np.uint8)
        if kind == "dict":
            self.observation_space: spaces.Space = spaces.Dict({"place": vector, "camera": image})
        else:
            self.observation_space = image if kind == "image" else vector
        self.action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
        self.episode = -1
        self.step_number = 0
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.step_number = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        self.actions.append(np.array(action))
        self.step_number += 1
        over = self.step_number >= self.lengths[self.episode % len(self.lengths)]
        even = self.episode % 2 == 0
        return self._observation(), float(action[0]), over and even, over and not even, {}

    def _observation(self) -> Any:
        place = np.array([self.index, self.episode, self.step_number])
        image = np.zeros((46, 48, 3), np.uint8)
        image[0, 0] = place
        vector = place.astype(np.float64 if self.kind == "double" else np.float32)
        if self.bad == (self.episode, self.step_number):
            vector[2] = self.value
        if self.kind == "dict":
            return {"place": vector, "camera": image}
        return image if self.kind == "image" else vector


def scripted_envs(n: int = 3, lengths: tuple[int, ...] = (3, 5, 1, 4), kind: str = "vector") -> VecEnv:
    """Scripted environments that each begin somewhere else in the list of lengths."""
    rotated = [lengths[i % len(lengths) :] + lengths[: i % len(lengths)] for i in range(n)]
    return DummyVecEnv([lambda i=i: Scripted(i, rotated[i], kind) for i in range(n)])


def tiny_model(env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> METRA:
    """METRA with hidden layers of 8 units; ``kwargs`` replace any of its arguments."""
    return METRA(policy, scripted_envs() if env is None else env, **(TINY | kwargs))


def state_of(model: METRA) -> dict[str, th.Tensor]:
    """Every tensor that learning changes, by name."""

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{name}/{key}")
        elif isinstance(value, th.Tensor):
            yield name, value.detach().clone()

    return dict(walk(model.get_parameters(), ""))


def same(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> bool:
    """Whether two states agree to the bit."""
    return first.keys() == second.keys() and all(th.equal(x, second[name]) for name, x in first.items())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """A folder that ``make`` fills once in a run of the tests, in whichever of its processes asks for it first."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            half = Path(f"{folder}.half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


class Follower:
    """
    A policy that acts as its skill says: the action is the skill's first components, and calls are counted.

    :param env: an environment, or a vectorised one, whose spaces it was trained on
    :param prior: p(z)
    """

    def __init__(self, env: Any, prior: SkillPrior) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.skill_prior = prior
        self.calls: list[Any] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        assert deterministic
        self.calls.append(observation)
        n_actions = self.action_space.shape[0]
        return np.clip(state[..., :n_actions], self.action_space.low, self.action_space.high), state


def goal_points(n: int = 3, length: int = 40, **kwargs: Any) -> VecEnv:
    """Point masses with episodes of a length."""
    return DummyVecEnv([lambda: gym.wrappers.TimeLimit(PointMassEnv(**kwargs), length) for _ in range(n)])


class Chores(PointMassEnv):
    """A point mass with two tasks: to have been a unit east, and a unit north."""

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        x, y = info["coordinates"]
        self.done = {"east": self.done["east"] or bool(x > 1), "north": self.done["north"] or bool(y > 1)}
        return {"tasks": dict(self.done)}

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.done = {"east": False, "north": False}
        observation, info = super().reset(**kwargs)
        return observation, self._told(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, self._told(info)

    def goal_observation(self, goal: Any) -> np.ndarray:
        return np.array({"east": [1.5, 0.0], "north": [0.0, 1.5]}[goal], np.float32)


class Grid(gym.Env):
    """
    Places of a grid of 9 by 9, from its middle; the actions go right, left, up and down, or each axis back or forth.

    :param actions: ``Discrete(4)``, or two components of the values back, stay and forth, or back and forth
    :param length: steps of an episode
    """

    metadata: dict[str, Any] = {"render_modes": [], "goal_range": 4.0}  # noqa: RUF012  # as in Gymnasium
    observation_space = spaces.Box(-4.0, 4.0, (2,), np.float32)

    def __init__(self, actions: spaces.Space | None = None, length: int = 8) -> None:
        self.action_space = spaces.Discrete(4) if actions is None else actions
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = np.zeros(2), 0
        return self._observation()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        if isinstance(self.action_space, spaces.Discrete):
            move = [(1, 0), (-1, 0), (0, 1), (0, -1)][action - self.action_space.start]
        elif isinstance(self.action_space, spaces.MultiBinary):
            move = tuple(2 * action.astype(int) - 1)
        else:
            move = tuple(action - self.action_space.start - 1)  # type: ignore[attr-defined]
        self.place, self.steps = np.clip(self.place + move, -4, 4), self.steps + 1
        observation, info = self._observation()
        return observation, 0.0, False, self.steps == self.length, info

    def get_state(self) -> dict[str, Any]:
        return {"place": self.place.copy(), "steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        self.place, self.steps = state["place"].copy(), state["steps"]

    def goal_observation(self, goal: Any) -> np.ndarray:
        return np.asarray(goal, np.float32)

    def _observation(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self.place.astype(np.float32), {"coordinates": self.place.copy()}


COUNTED = {
    "Discrete": spaces.Discrete(4),
    "start": spaces.Discrete(4, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([3, 3], start=[0, 5]),
    "MultiBinary": spaces.MultiBinary(2),
}


def skip_without_drawing() -> None:
    """Skip the test where MuJoCo has no way to draw."""
    import mujoco

    from sb3_metra.envs.rendering import GL_PACKAGES, SceneRenderer

    try:
        SceneRenderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 64, 64).close()
    except ImportError as error:
        if GL_PACKAGES in str(error):
            pytest.skip("drawing needs the libraries of EGL or OSMesa")
        raise


def grids(kind: str = "Discrete", n: int = 2, length: int = 8) -> VecEnv:
    """Grids whose actions are counted, see ``COUNTED``."""
    return DummyVecEnv([lambda: Grid(COUNTED[kind], length) for _ in range(n)])
