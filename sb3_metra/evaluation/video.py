"""Videos of skills; the only file that imports a video encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

try:
    import imageio.v3 as iio
except ImportError as error:
    raise ImportError('videos need imageio: pip install "sb3-metra[plot]"') from error


def write_video(clips: Sequence[Sequence[np.ndarray]], path: str | Path, fps: float = 20.0) -> Path:
    """
    Show clips side by side in a grid, all from the start; one that ends early stands still on its last frame.

    :param clips: for each skill its frames, (height, width, 3) uint8, all of one size
    :param path: an .mp4 or a .gif
    :param fps: frames per second
    :return: the path
    :raises ValueError: where there are no frames, or the ending is another
    """
    path = Path(path)
    if not clips or not all(len(clip) for clip in clips):
        raise ValueError("clips must hold at least one frame each, got none")
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"path must end in .mp4 or .gif, got {path.name!r}")
    length = max(len(clip) for clip in clips)
    frames = [tile([clip[min(t, len(clip) - 1)] for clip in clips]) for t in range(length)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        iio.imwrite(path, frames, duration=1000.0 / fps, loop=0)
    else:
        iio.imwrite(path, frames, fps=fps, codec="libx264", macro_block_size=2)
    return path


def tile(images: Sequence[np.ndarray]) -> np.ndarray:
    """
    Images in a grid that is about as wide as it is high, filled up with white.

    :param images: each (height, width, 3)
    :return: (rows * height, columns * width, 3)
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    blank = np.full_like(images[0], 255)
    padded = [*images, *[blank] * (rows * columns - len(images))]
    return np.concatenate([np.concatenate(padded[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])
