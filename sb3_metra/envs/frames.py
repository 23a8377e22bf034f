"""Stacks of frames as pixel environments observe them; nothing is drawn here."""

import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_integer

SMALLEST_FRAME = 46
"""Pixels along either edge of the smallest image that the paper's four convolutions take."""


class FrameStack:
    """
    The most recent frames, channels first, the oldest first; the first frame of an episode is repeated.

    :param n_frames: number of frames in an observation, at least 1
    :param frame_size: height and width of a frame in pixels, at least 46
    """

    def __init__(self, n_frames: int, frame_size: int):
        for name, value, smallest in (("frame_stack", n_frames, 1), ("frame_size", frame_size, SMALLEST_FRAME)):
            check_integer(name, value, smallest)
        self.n_frames = n_frames
        self.space = spaces.Box(0, 255, shape=(3 * n_frames, frame_size, frame_size), dtype=np.uint8)
        self._frames = np.zeros(self.space.shape, dtype=np.uint8)

    @property
    def frames(self) -> np.ndarray:
        """The stack as it is, ``(3 * n_frames, frame_size, frame_size)``; a copy."""
        return self._frames.copy()

    @frames.setter
    def frames(self, frames: np.ndarray) -> None:
        self._frames = np.array(frames, dtype=np.uint8)

    def reset(self, frame: np.ndarray) -> np.ndarray:
        """
        Begin an episode.

        :param frame: its first frame, ``(frame_size, frame_size, 3)`` uint8
        :return: that frame ``n_frames`` times, ``(3 * n_frames, frame_size, frame_size)``; a copy
        """
        self._frames = self.repeat(frame)
        return self._frames.copy()

    def repeat(self, frame: np.ndarray) -> np.ndarray:
        """
        Observe one frame repeated over the stack; the episode's own frames stay as they are.

        :param frame: ``(frame_size, frame_size, 3)`` uint8
        :return: that frame ``n_frames`` times, ``(3 * n_frames, frame_size, frame_size)``; a copy
        """
        return np.tile(frame.transpose(2, 0, 1), (self.n_frames, 1, 1))

    def push(self, frame: np.ndarray) -> np.ndarray:
        """
        Take the next frame and drop the oldest.

        :param frame: ``(frame_size, frame_size, 3)`` uint8
        :return: the stack, ``(3 * n_frames, frame_size, frame_size)``; a copy
        """
        self._frames = np.concatenate((self._frames[3:], frame.transpose(2, 0, 1)))
        return self._frames.copy()
