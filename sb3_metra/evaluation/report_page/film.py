"""Short films as sheets of small pictures, which a page shows in step with its plots; the only file that needs PIL."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

try:
    from PIL import Image
except ImportError as error:
    raise ImportError('films need pillow: pip install "sb3-metra[plot]"') from error

_LARGEST = (320, 240)
_BLOCK = 16  # the edge of what the encoder works on: no picture bleeds into its neighbour on the sheet
_FEW_COLORS = 64
_COLUMNS = 10  # of a sheet; a hundred pictures of the largest size stay far below the 16383 pixels of the format


class DrawingError(RuntimeError):
    """An environment could not be drawn."""


class Shutter(VecEnvWrapper):
    """
    Draws only every n-th state; in between, the last picture stands for it.

    :param venv: environments with ``render_mode="rgb_array"``
    :param every: steps between two pictures
    """

    def __init__(self, venv: VecEnv, every: int) -> None:
        super().__init__(venv)
        self.every = every
        self._step = 0
        self._images: Sequence[np.ndarray | None] = []

    def reset(self) -> VecEnvObs:
        self._step, self._images = 0, []
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        self._step += 1
        return self.venv.step_wait()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        A picture of each environment, drawn anew at every ``every``-th step and the last one in between.

        :raises DrawingError: if drawing fails
        """
        if self._step % self.every == 0 or not self._images:
            try:
                self._images = self.venv.get_images()
            except Exception as error:  # OpenGL fails in many ways
                raise DrawingError(str(error) or type(error).__name__) from error
            if any(image is None for image in self._images):
                raise DrawingError("render() gives no picture")
        return self._images


class _Rung(NamedTuple):
    """How films are made smaller: the width as a share of the largest, the encoder's quality, pictures left out."""

    scale: float
    quality: int
    thinning: int


_LADDER = [
    _Rung(1.0, 70, 1),
    _Rung(0.75, 65, 1),
    _Rung(0.75, 50, 1),
    _Rung(0.65, 50, 1),
    _Rung(0.6, 40, 1),
    _Rung(0.6, 45, 2),
    _Rung(0.5, 40, 2),
    _Rung(0.5, 35, 4),
    _Rung(0.4, 30, 8),
]
_GOOD = 2  # rungs from the top, of which nothing need be said


class FilmMaker:
    """
    Encodes films one after the other so that all of them together stay below a size.

    Each may take an equal share of what the earlier ones left. One that takes more is made smaller, coarser or jerkier,
    and those after it are no better.

    :param n_films: how many films there will be
    :param max_bytes: size of all of them, as text
    """

    def __init__(self, n_films: int, max_bytes: float) -> None:
        self.films_left = n_films
        self.bytes_left = max_bytes
        self._rung = 0

    def make(self, frames: Sequence[np.ndarray], every: int) -> dict[str, Any] | None:
        """
        Encode one film.

        :param frames: pictures, (height, width, 3) uint8 each
        :param every: steps between two of them
        :return: the sheet as a ``data:`` address and how to read it; ``None`` where not even the smallest fits
        """
        share = self.bytes_left / max(1, self.films_left)
        self.films_left -= 1
        while self._rung < len(_LADDER):
            film = _encode(frames, every, _LADDER[self._rung])
            if len(film["src"]) <= share:
                self.bytes_left -= len(film["src"])
                return film
            self._rung += 1
        return None

    def remark(self) -> str | None:
        """A sentence about what the limit cost, or ``None`` where it cost nothing that is seen."""
        if self._rung >= len(_LADDER):
            return "Some skills have no video, because the page would grow too large: allow it more megabytes."
        if self._rung < _GOOD:
            return None
        rung = _LADDER[self._rung]
        fewer = f" and with one picture in {rung.thinning}" if rung.thinning > 1 else ""
        return (
            f"To keep the page below its limit, videos are shown at {rung.scale:.0%} of their width, at quality "
            f"{rung.quality}{fewer}: fewer skills or more megabytes make them better."
        )


def _encode(frames: Sequence[np.ndarray], every: int, rung: _Rung) -> dict[str, Any]:
    """All pictures of a film in one WebP image, row by row."""
    chosen = frames[:: rung.thinning]
    width, height = _size(chosen[0].shape[1], chosen[0].shape[0], rung.scale)
    columns = min(len(chosen), _COLUMNS)
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for i, frame in enumerate(chosen):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # averages where it shrinks
        sheet.paste(picture, (i % columns * width, i // columns * height))
    buffer = io.BytesIO()
    is_drawing = sheet.crop((0, 0, width, height)).getcolors(_FEW_COLORS) is not None
    if is_drawing:  # lines on flat colours are smallest, and sharp, without loss
        sheet.save(buffer, "WEBP", lossless=True, quality=20, method=0)
    else:
        sheet.save(buffer, "WEBP", quality=rung.quality, method=2)
    address = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    layout = {"width": width, "height": height, "columns": columns, "count": len(chosen)}
    return {"src": address, **layout, "every": every * rung.thinning}


def _size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Size of a film's pictures: as large as allowed, and a multiple of the encoder's block."""
    factor = scale * min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
    return max(_BLOCK, round(width * factor / _BLOCK) * _BLOCK), max(_BLOCK, round(height * factor / _BLOCK) * _BLOCK)
