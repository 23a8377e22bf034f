"""The paper's downstream tasks, as wrappers of any environment that reports its place as ``info["coordinates"]``."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.common.inputs import check_choice, check_count, check_flag, check_number, check_place, check_tasks

HURDLES = (-15.0, -13.0, -9.0, -5.0, -1.0, 3.0, 7.0, 11.0, 15.0, 19.0, 23.0, 27.0)
"""Where hurdles stand along x, in metres, as in the code of TLDR (arXiv 2407.08464); those ahead of the start count."""
_HURDLE_SIZE, _HURDLE_HEIGHT = (0.05, 1.0, 0.03), 0.2  # half the edges of a bar, and how high its middle lies


class GoalTask(gym.Wrapper[Any, Any, Any, Any]):
    """
    Reach a place that the observation shows. The reward is sparse and replaces the environment's.

    The observation is a dictionary: ``"observation"``, the environment's own, and ``"goal"``, the place in the unit of
    ``info["coordinates"]``. ``info["is_success"]`` says whether any goal of the episode has been reached so far and
    ``info["goals_reached"]`` how many.

    :param env: an environment that reports ``info["coordinates"]`` at every reset and step
    :param goal_range: half the edge of the square, or interval, that goals are drawn from: the first one about the
        origin, the next ones about the one before
    :param radius: distance within which a goal is reached
    :param new_goal_every: steps after which the next goal is drawn; ``None``: one goal an episode
    :param reward: ``"stay"`` rewards every step within the radius by 1; ``"reach"`` the first one for each goal, and
        with a single goal the episode ends there
    :param relative_goal: observe the vector to the goal instead of the goal's place
    :raises ValueError: if a number is not positive, or if the environment reports no coordinates
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        goal_range: float,
        radius: float,
        new_goal_every: int | None = None,
        reward: Literal["stay", "reach"] = "stay",
        relative_goal: bool = False,
    ) -> None:
        super().__init__(_checked(env))
        check_number("goal_range", goal_range)
        check_number("radius", radius)
        if new_goal_every is not None:
            check_count("new_goal_every", new_goal_every)
        check_choice("reward", reward, ("stay", "reach"))
        check_flag("relative_goal", relative_goal)
        self.goal_range, self.radius, self.new_goal_every = goal_range, radius, new_goal_every
        self.reward_for, self.relative_goal = reward, relative_goal
        n_coordinates = len(_coordinates(env.reset()[1]))
        goal_space = spaces.Box(-np.inf, np.inf, (n_coordinates,), np.float32)
        self.observation_space = spaces.Dict({"observation": env.observation_space, "goal": goal_space})
        self.goal = np.zeros(n_coordinates)
        self._steps = self._reached = 0
        self._reached_this_one = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's ``reset``; ``options=dict(goal=...)`` gives the first goal instead of drawing it."""
        given = None if options is None or "goal" not in options else _like(options["goal"], self.goal)
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = self._reached = 0
        self.goal = np.zeros(len(self.goal))
        self._draw_goal()
        if given is not None:
            self.goal = given
        return self._observe(observation, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's ``step``."""
        observation, _, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        within = bool(np.linalg.norm(self.goal - _coordinates(info)) < self.radius)
        first = within and not self._reached_this_one
        self._reached += first
        self._reached_this_one |= within
        reward = float(within if self.reward_for == "stay" else first)
        if self.reward_for == "reach" and self.new_goal_every is None:
            terminated = terminated or first
        if self.new_goal_every is not None and self._steps % self.new_goal_every == 0:
            self._draw_goal()
        observation, info = self._observe(observation, info)
        return observation, reward, terminated, truncated, info

    def _draw_goal(self) -> None:
        self.goal = self.goal + self.np_random.uniform(-self.goal_range, self.goal_range, len(self.goal))
        self._reached_this_one = False

    def _observe(self, observation: Any, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        goal = self.goal - _coordinates(info) if self.relative_goal else self.goal
        told = {"goal": self.goal.copy(), "goals_reached": self._reached, "is_success": self._reached > 0}
        return {"observation": observation, "goal": goal.astype(np.float32)}, {**info, **told}


class HurdleTask(gym.Wrapper[Any, Any, Any, Any]):
    """
    Run over hurdles: the reward is 1 for each hurdle that the rear foot passes, and -1 for one that it passes back.

    The observation is a dictionary: ``"observation"``, the environment's own, and ``"hurdle"``, the next hurdle's place
    along x and how far the rear foot is from it, in metres. The hurdles themselves are :func:`make_hurdle_task`'s.

    :param env: MuJoCo's HalfCheetah, among hurdles
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(_checked(env))
        if not env.has_wrapper_attr("get_body_com"):
            raise ValueError(f"env must be one of MuJoCo's bodies among hurdles, got {env}")
        hurdle_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": env.observation_space, "hurdle": hurdle_space})
        self._passed = 0

    @property
    def _foot(self) -> float:
        return float(self.env.get_wrapper_attr("get_body_com")("bfoot")[0])

    def _count(self) -> int:
        return sum(0.0 <= hurdle < self._foot for hurdle in HURDLES)

    def _observe(self, observation: Any, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        foot = self._foot
        following = next((hurdle for hurdle in HURDLES if hurdle >= foot), HURDLES[-1])
        hurdle = np.array([following, abs(following - foot)], np.float32)
        return {"observation": observation, "hurdle": hurdle}, {**info, "hurdles_passed": self._passed}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's ``reset``."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._passed = self._count()
        return self._observe(observation, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's ``step``."""
        observation, _, terminated, truncated, info = self.env.step(action)
        before, self._passed = self._passed, self._count()
        observation, info = self._observe(observation, info)
        return observation, float(self._passed - before), terminated, truncated, info


class AchieveTask(gym.Wrapper[Any, Any, Any, Any]):
    """
    Achieve one of an environment's tasks. The reward is 1 when it is achieved for the first time, and the episode ends.

    The observation is a dictionary: ``"observation"``, the environment's own, and ``"goal"``, a one-hot vector of the
    wanted task, which is drawn at the reset. The environment's own reward is left out.

    :param env: an environment that reports ``info["tasks"]`` at every reset and step: by name, whether the episode has
        achieved the task
    :raises ValueError: if it does not
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(_checked(env))
        info = env.reset()[1]
        if not info.get("tasks"):
            raise ValueError('env must report info["tasks"] at every reset and step')
        self.tasks = list(check_tasks('info["tasks"]', info["tasks"]))
        self.task = self.tasks[0]
        goal_space = spaces.Box(0.0, 1.0, (len(self.tasks),), np.float32)
        self.observation_space = spaces.Dict({"observation": env.observation_space, "goal": goal_space})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's ``reset``; ``options=dict(task=...)`` names the task instead of drawing it."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.task = self.tasks[self.np_random.integers(len(self.tasks))]
        if options is not None and "task" in options:
            self.task = options["task"]
            if self.task not in self.tasks:
                raise ValueError(f"task must be one of {self.tasks}, got {self.task!r}")
        return self._observe(observation, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's ``step``."""
        observation, _, terminated, truncated, info = self.env.step(action)
        achieved = bool(info["tasks"][self.task])
        observation, info = self._observe(observation, info)
        return observation, float(achieved), terminated or achieved, truncated, info

    def _observe(self, observation: Any, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        goal = np.array([task == self.task for task in self.tasks], np.float32)
        return {"observation": observation, "goal": goal}, {**info, "is_success": bool(info["tasks"][self.task])}


def make_goal_task(
    body: str,
    goal_range: float,
    radius: float,
    new_goal_every: int | None = None,
    reward: Literal["stay", "reach"] = "stay",
    relative_goal: bool = False,
    **kwargs: Any,
) -> GoalTask:
    """
    :class:`GoalTask` of one of this package's environments.

    :param body: name of the environment, e.g. ``"Ant"``
    :param goal_range: see :class:`GoalTask`
    :param radius: see :class:`GoalTask`
    :param new_goal_every: see :class:`GoalTask`
    :param reward: see :class:`GoalTask`
    :param relative_goal: see :class:`GoalTask`
    :param kwargs: of the environment
    """
    return GoalTask(_make(body, **kwargs), goal_range, radius, new_goal_every, reward, relative_goal)


def make_achieve_task(body: str, **kwargs: Any) -> AchieveTask:
    """
    :class:`AchieveTask` of one of this package's environments.

    :param body: name of the environment, e.g. ``"KitchenPixels"``
    :param kwargs: of the environment
    """
    return AchieveTask(_make(body, **kwargs))


def make_hurdle_task(**kwargs: Any) -> HurdleTask:
    """
    :class:`HurdleTask` of HalfCheetah: bars of 10 cm by 6 cm lie across its way, 20 cm above the floor.

    :param kwargs: of the environment
    """
    package = find_spec("gymnasium.envs")
    assert package is not None
    assert package.origin is not None
    body = Path(package.origin).parent / "mujoco" / "assets" / "half_cheetah.xml"
    size = " ".join(map(str, _HURDLE_SIZE))
    bars = "".join(
        f'<geom name="hurdle {x:g}" type="box" size="{size}" pos="{x} 0 {_HURDLE_HEIGHT}" conaffinity="1" '
        'rgba="0.8 0.3 0.2 1"/>'
        for x in HURDLES
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "half_cheetah_hurdles.xml"
        file.write_text(f'<mujoco><include file="{body}"/><worldbody>{bars}</worldbody></mujoco>', encoding="utf-8")
        return HurdleTask(_make("HalfCheetah", xml_file=str(file), **kwargs))


def _make(body: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """One of this package's environments without its time limit: the task has its own."""
    try:
        return gym.make(f"sb3_metra.envs:sb3_metra/{body}-v0", max_episode_steps=-1, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"body must be the name of an environment, such as Ant, got {body!r}: {error}") from error


def _checked(env: Any) -> gym.Env[Any, Any]:
    if not isinstance(env, gym.Env):
        raise ValueError(f"env must be a Gymnasium environment, got {env!r}")
    return env


def _coordinates(info: dict[str, Any]) -> np.ndarray:
    if "coordinates" not in info:
        raise ValueError('env must report info["coordinates"] at every reset and step')
    return check_place('info["coordinates"]', info["coordinates"])


def _like(goal: Any, other: np.ndarray) -> np.ndarray:
    try:
        place = check_place("goal", goal)
    except ValueError:
        place = np.empty(0)
    if place.shape != other.shape:
        raise ValueError(f"goal must be a finite place of shape {other.shape}, got {goal!r}")
    return place
