"""A point that moves in the plane: the smallest environment in which skills can be seen, in plain NumPy."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_action, check_number, check_picture, is_number
from sb3_metra.envs.goals import check_place
from sb3_metra.envs.states import State, check_state, get_generator, set_generator

_BACKGROUND, _GRID, _AXES = (255, 255, 255), (226, 226, 226), (160, 160, 160)
_GOAL_RANGE = 7.5
_TRAIL, _POINT = (120, 160, 220), (200, 40, 40)


class PointMassEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    A point in the plane that every action moves by ``step_size * action``.

    The observation is its position ``(x, y)``, which is also ``info["coordinates"]``. The 100 steps of a registered
    episode reach 10 cells of size 1 along either axis. The reward is the growth of the distance to the episode's first
    position, so an episode's return is how far away it ended.

    :param step_size: how far an action of 1 moves the point along an axis
    :param reset_noise_scale: half-width of the square about the origin from which first positions are drawn uniformly
    :param arena: half-width of a square about the origin that the point cannot leave, or ``None`` for the whole plane
    :param render_mode: ``"rgb_array"`` or ``None``
    :param width: width of a rendered picture in pixels
    :param height: height of a rendered picture in pixels
    """

    metadata = {  # noqa: RUF012  (Gymnasium declares it as an attribute)
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "unit": "",
        "goal_range": _GOAL_RANGE,
        "camera": None,
        "observation_names": ("x", "y"),
    }

    def __init__(
        self,
        step_size: float = 0.1,
        reset_noise_scale: float = 0.1,
        arena: float | None = None,
        render_mode: str | None = None,
        width: int = 256,
        height: int = 256,
    ):
        check_number("step_size", step_size, above=0)
        check_number("reset_noise_scale", reset_noise_scale, at_least=0)
        if arena is not None and not (is_number(arena) and arena > 0 and arena >= reset_noise_scale):
            raise ValueError(
                f"arena must be None or a finite number above 0 and of at least reset_noise_scale={reset_noise_scale}, "
                f"got {arena!r}."
            )
        check_picture(render_mode, width, height)
        self.step_size = step_size
        self.reset_noise_scale = reset_noise_scale
        self.arena = arena
        self.render_mode = render_mode
        self.width, self.height = width, height
        bound = np.inf if arena is None else arena
        self.metadata = {**self.metadata, "goal_range": min(_GOAL_RANGE, bound)}
        self.observation_space = spaces.Box(-bound, bound, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
        self._start = np.zeros(2)
        self._position = np.zeros(2)
        self._trail: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin near the origin, or near ``options["place"]``, ``(2,)``."""
        super().reset(seed=seed)
        self._start = self.np_random.uniform(-self.reset_noise_scale, self.reset_noise_scale, size=2)
        if options and "place" in options:
            self._start = self._start + self._check_goal(options["place"], 'options["place"]')
            if self.arena is not None:
                self._start = np.clip(self._start, -self.arena, self.arena)
        self._position = self._start
        self._trail = [self._position]
        return self._position.astype(np.float32), {"coordinates": self._position.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move by ``step_size * action``, clipped to [-1, 1]; never terminates."""
        before = self._position
        # minimum and maximum take half as long as np.clip
        position = before + self.step_size * np.minimum(np.maximum(check_action(action, (2,)), -1.0), 1.0)
        if self.arena is not None:
            position = np.minimum(np.maximum(position, -self.arena), self.arena)
        self._position = position
        if self.render_mode is not None:
            self._trail.append(position)
        start = self._start.tolist()
        reward = math.dist(position.tolist(), start) - math.dist(before.tolist(), start)
        return position.astype(np.float32), reward, False, False, {"coordinates": position.copy()}

    def goal_observation(self, goal: np.ndarray) -> np.ndarray:
        """
        Observe the point at a place; the running episode does not change.

        :param goal: the place, ``(2,)``, as in ``info["coordinates"]``
        :return: an observation
        :raises ValueError: if the goal is no place, or lies outside the arena
        """
        return self._check_goal(goal).astype(np.float32)

    def _check_goal(self, goal: np.ndarray, name: str = "goal") -> np.ndarray:
        place = check_place(goal, 2, name)
        if self.arena is not None and np.abs(place).max() > self.arena:
            raise ValueError(f"{name} must lie in the arena, from {-self.arena} to {self.arena}, got {goal!r}.")
        return place

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on, except the drawn trail.

        :return: NumPy arrays and JSON values
        """
        return {"np_random": get_generator(self), "start": self._start.copy(), "position": self._position.copy()}

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of another environment
        """
        state = check_state(state, self.get_state())
        set_generator(self, state["np_random"])
        self._start, self._position = (np.array(state[name], dtype=np.float64) for name in ("start", "position"))
        self._trail = [self._position]

    def render(self) -> np.ndarray | None:
        """
        Draw the cells, the axes, the episode's trail and the point; without an arena the view widens with the trail.

        :return: ``(height, width, 3)`` uint8, or ``None`` without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing without render_mode="rgb_array".')
            return None
        trail = np.array(self._trail) if self._trail else self._position[None]
        # World units from the centre of the picture to its nearer edge.
        extent = 1.05 * self.arena if self.arena is not None else max(12.0, 1.1 * float(np.abs(trail).max()))
        scale = 2.0 * extent / min(self.width, self.height)
        # The world coordinates of every column's and every row's centre; y points upwards.
        xs = (np.arange(self.width) + 0.5 - self.width / 2) * scale
        ys = (self.height / 2 - 0.5 - np.arange(self.height)) * scale

        image = np.full((self.height, self.width, 3), _BACKGROUND, dtype=np.uint8)
        cell = 1.0 if scale < 0.25 else 10.0  # cells of size 1 while they are wider than four pixels
        directions = ((xs, image.swapaxes(0, 1)), (ys, image))
        for coordinates, lines in directions:
            lines[np.flatnonzero(np.diff(np.floor(coordinates / cell)))] = _GRID
        for coordinates, lines in directions:
            lines[np.abs(coordinates).argmin()] = _AXES
        columns = np.clip((trail[:, 0] / scale + self.width / 2).astype(int), 0, self.width - 1)
        rows = np.clip((self.height / 2 - trail[:, 1] / scale).astype(int), 0, self.height - 1)
        image[rows, columns] = _TRAIL
        radius = max(2.0, min(self.width, self.height) / 64) * scale
        x, y = trail[-1]
        image[(xs[None, :] - x) ** 2 + (ys[:, None] - y) ** 2 <= radius**2] = _POINT
        return image
