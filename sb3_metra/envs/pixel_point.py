"""The point mass seen from above, as an image: the smallest environment for skills from pixels, in plain NumPy."""

from typing import Any

import numpy as np

from sb3_metra.envs.checks import check_number
from sb3_metra.envs.frames import SMALLEST_FRAME, FrameStack
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.envs.states import State

_BLUE, _POINT, _POINT_RADIUS = 128, (255, 255, 255), 0.05


class PixelPointMassEnv(PointMassEnv):
    """
    ``PointMassEnv`` that observes pixels: the floor about the point, whose colour shows the place.

    The point stays in the middle of the view, and the floor moves under it. Red grows along x and green along y, from 0
    at ``-floor_size`` to 255 at ``floor_size``; blue is 128 everywhere. Beyond, colours stay as they are at the edge.
    One frame shows the whole state, so a stack of frames is useful only to try stacks.

    :param frame_size: height and width of the image in pixels, at least 46, which takes half the work of 64
    :param frame_stack: number of frames in an observation; the first of an episode is repeated
    :param view: width of the square that is seen
    :param floor_size: half the width of the coloured square about the origin
    :param kwargs: passed to ``PointMassEnv``: ``step_size``, ``reset_noise_scale``, ``arena``, ``render_mode``, ...
    """

    def __init__(
        self,
        frame_size: int = SMALLEST_FRAME,
        frame_stack: int = 1,
        view: float = 6.4,
        floor_size: float = 12.8,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        for name, value in (("view", view), ("floor_size", floor_size)):
            check_number(name, value, above=0)
        self._frames = FrameStack(frame_stack, frame_size)
        self.observation_space = self._frames.space
        self.metadata.pop("observation_names")  # of places, which are not observed here
        self.frame_stack = frame_stack
        self.floor_size = floor_size
        # Where the centres of columns lie to the right of the point, in world units; and those of rows, upwards.
        self._offsets = (np.arange(frame_size) + 0.5 - frame_size / 2) * (view / frame_size)
        radius = _POINT_RADIUS * view
        self._disc = self._offsets[None, :] ** 2 + self._offsets[:, None] ** 2 <= radius**2

    def _draw(self) -> np.ndarray:
        return self._draw_at(self._position)

    def _draw_at(self, position: np.ndarray) -> np.ndarray:
        """
        Draw what is seen from above the point.

        :param position: where the point is, ``(2,)``
        :return: ``(frame_size, frame_size, 3)`` uint8; y points upwards
        """
        x, y = position
        frame = np.full((*self._disc.shape, 3), _BLUE, dtype=np.uint8)
        frame[..., 0] = self._shade(x + self._offsets)[None, :]
        frame[..., 1] = self._shade(y - self._offsets)[:, None]
        frame[self._disc] = _POINT
        return frame

    def _shade(self, coordinates: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(127.5 * (1.0 + coordinates / self.floor_size), 0.0, 255.0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        return self._frames.reset(self._draw()), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = super().step(action)
        return self._frames.push(self._draw()), reward, terminated, truncated, info

    def goal_observation(self, goal: np.ndarray) -> np.ndarray:
        """
        Observe the point at rest at a place; the running episode does not change.

        :param goal: the place, ``(2,)``, as in ``info["coordinates"]``
        :return: an observation: the frame of that place, repeated over the stack
        :raises ValueError: if the goal is no place, or lies outside the arena
        """
        return self._frames.repeat(self._draw_at(self._check_goal(goal)))

    def get_state(self) -> State:
        return {**super().get_state(), "frames": self._frames.frames}

    def set_state(self, state: State) -> None:
        super().set_state(state)
        self._frames.frames = state["frames"]
