"""The base of MuJoCo environments that are seen through a camera: stacks of frames, renderers, pictures."""

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_metra.envs.checks import check_action, check_picture
from sb3_metra.envs.frames import FrameStack
from sb3_metra.envs.rendering import Quality, SceneRenderer, check_quality
from sb3_metra.envs.states import State, check_state, get_generator, get_simulation, set_generator, set_simulation


class MujocoPixelEnv(gym.Env[np.ndarray, np.ndarray], ABC):
    """
    A MuJoCo model seen through one camera.

    The observation is a stack of the latest frames, ``(3 * frame_stack, frame_size, frame_size)`` uint8, the oldest
    first; the first of an episode is repeated. A subclass sets ``_camera``, gives model and state, and moves them.

    :param frame_size: height and width of a frame in pixels, at least 46
    :param frame_stack: number of frames in an observation
    :param quality: ``"fast"`` or ``"full"``
    :param render_mode: ``"rgb_array"`` or ``None``
    :param width: width of the pictures that ``render`` draws, in pixels; the observation's frames have their own size
    :param height: height of the pictures that ``render`` draws, in pixels
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25, "unit": "m"}  # noqa: RUF012  (Gymnasium declares it so)
    _shadows = False
    _camera: Any

    def __init__(
        self, frame_size: int, frame_stack: int, quality: Quality, render_mode: str | None, width: int, height: int
    ):
        self._renderers: dict[tuple[int, int], SceneRenderer] = {}
        check_picture(render_mode, width, height)
        check_quality(quality)
        self._frames = FrameStack(frame_stack, frame_size)
        self.observation_space = self._frames.space
        self.frame_stack, self.quality, self.render_mode = frame_stack, quality, render_mode
        self.width, self.height, self._frame_size = width, height, frame_size

    @property
    @abstractmethod
    def model(self) -> Any:
        """MuJoCo's model."""

    @property
    @abstractmethod
    def data(self) -> Any:
        """MuJoCo's state of the running episode."""

    def _renderer(self, width: int, height: int) -> SceneRenderer:
        """
        Give the one renderer for pictures of a size, made when it is first needed.

        :param width: width of the pictures
        :param height: height of the pictures
        :return: the renderer
        """
        if (width, height) not in self._renderers:
            self._renderers[width, height] = SceneRenderer(self.model, width, height, self.quality, self._shadows)
        return self._renderers[width, height]

    def _draw(self) -> np.ndarray:
        return self._draw_state(self.data)

    def _draw_state(self, data: Any) -> np.ndarray:
        return self._renderer(self._frame_size, self._frame_size).render(data, self._camera)

    def _check_action(self, action: np.ndarray) -> np.ndarray:
        """
        Refuse an action of another shape or type.

        :param action: the given action
        :return: the action in float64, clipped to [-1, 1]
        """
        assert self.action_space.shape is not None
        return np.clip(check_action(action, self.action_space.shape), -1.0, 1.0)

    def render(self) -> np.ndarray | None:
        """
        Draw what the camera sees, larger than the observation's frames.

        :return: ``(height, width, 3)`` uint8, or ``None`` without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing without render_mode="rgb_array".')
            return None
        return self._renderer(self.width, self.height).render(self.data, self._camera)

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on.

        :return: NumPy arrays and JSON values
        """
        return {
            "np_random": get_generator(self),
            "simulation": get_simulation(self.model, self.data),
            "frames": self._frames.frames,
        }

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of another environment
        """
        state = check_state(state, self.get_state())
        set_generator(self, state["np_random"])
        set_simulation(self.model, self.data, state["simulation"])
        self._frames.frames = state["frames"]

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
