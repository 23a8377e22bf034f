"""Videos of skills; the only file that imports a video encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_metra.common.files import atomic_path
from sb3_metra.common.inputs import check_folder, check_number, check_path
from sb3_metra.evaluation.rollout import SkillTrajectory, check_trajectories
from sb3_metra.evaluation.skills import is_one_hot

try:
    import imageio.v3 as iio
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError('videos need imageio and pillow: pip install "sb3-metra[plot]"') from error

_INK, _PAPER, _BORDER = (20, 20, 20), (255, 255, 255), (150, 150, 150)


def film_skills(trajectories: Sequence[SkillTrajectory], path: str | Path, fps: float = 20.0) -> Path:
    """
    Show skills side by side in a grid, each labelled by its number or direction.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns with ``frames=True``
    :param path: an .mp4 or a .gif
    :param fps: frames per second
    :return: the path
    :raises ValueError: if there are no frames, or the path has another ending or cannot be written to
    """
    check_number("fps", fps)
    film = check_path("path", path)
    if film.suffix not in (".mp4", ".gif"):
        raise ValueError(f"path must end in .mp4 or .gif, got {film.name!r}")
    frames = skill_grid(trajectories)
    check_folder("the folder of path", film.parent)
    return _write(frames, film, fps)


def skill_grid(trajectories: Sequence[SkillTrajectory]) -> list[np.ndarray]:
    """
    The frames of such a video.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns with ``frames=True``
    :return: each (height, width, 3) uint8
    """
    check_trajectories(trajectories)
    labels = describe_skills(np.stack([t.skill for t in trajectories]))
    return _grid(
        [[label_frame(frame, *label) for frame in t.frames] for t, label in zip(trajectories, labels, strict=True)]
    )


def encode_gif(frames: Sequence[np.ndarray], fps: float = 20.0) -> bytes:
    """
    A GIF in memory.

    :param frames: each (height, width, 3) uint8
    :param fps: frames per second
    """
    check_number("fps", fps)
    encoded = iio.imwrite("<bytes>", frames, extension=".gif", duration=1000.0 / fps, loop=0)
    return bytes(encoded)


def label_frame(frame: np.ndarray, text: str, direction: tuple[float, float] | None = None) -> np.ndarray:
    """
    A frame with a strip above it that says what it shows.

    :param frame: (height, width, 3) uint8
    :param text: a few characters
    :param direction: of an arrow before the text, a unit vector; ``None``: no arrow
    :return: (height + strip, width, 3) uint8
    """
    height, width = frame.shape[:2]
    size = max(14, min(width, height) // 8)  # of the strip
    image = Image.new("RGB", (width, height + size), _PAPER)
    image.paste(Image.fromarray(frame), (0, size))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size, width - 1, height + size - 1), outline=_BORDER)
    left = size * 0.3
    if direction is not None:
        _draw_arrow(draw, (size / 2, size / 2), direction, 0.4 * size)
        left = size * 1.1
    draw.text((left, size / 2), text, fill=_INK, anchor="lm", font=_font(text, 0.7 * size, width - left - 2))
    return np.asarray(image)


def describe_skills(skills: np.ndarray) -> list[tuple[str, tuple[float, float] | None]]:
    """
    What to write beside the pictures of skills: the number of a discrete one, the sign and size of a one-dimensional
    one, otherwise the first two components, and the direction of an arrow along them.

    :param skills: (n, skill_dim)
    :return: for each skill a few characters; and a unit vector, ``None`` where an arrow says nothing
    """
    skills = np.asarray(skills, dtype=np.float64)
    if skills.shape[1] == 1:
        return [(f"z = {skill[0]:+.3g}", None) for skill in skills]
    if is_one_hot(skills):
        return [(f"skill {skill.argmax()}", None) for skill in skills]
    described: list[tuple[str, tuple[float, float] | None]] = []
    for first, second in skills[:, :2]:
        values = ", ".join(f"{component:.2f}".replace("-0.00", "0.00") for component in (first, second))
        norm = float(np.hypot(first, second))
        text = f"z = ({values}{', ...' if skills.shape[1] > 2 else ''})"
        described.append((text, None if norm == 0 else (first / norm, second / norm)))
    return described


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


def _grid(clips: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    if not clips or not all(len(clip) for clip in clips):
        raise ValueError("trajectories must hold at least one frame each, got none: roll skills out with frames=True")
    length = max(len(clip) for clip in clips)
    return [tile([clip[min(t, len(clip) - 1)] for clip in clips]) for t in range(length)]


def _write(frames: Sequence[np.ndarray], path: Path, fps: float) -> Path:
    with atomic_path(path) as aside:
        if path.suffix == ".gif":
            iio.imwrite(aside, frames, duration=1000.0 / fps, loop=0)
        else:
            iio.imwrite(aside, frames, fps=fps, codec="libx264", macro_block_size=2)
    return path


def _draw_arrow(
    draw: ImageDraw.ImageDraw, center: tuple[float, float], direction: tuple[float, float], length: float
) -> None:
    """An arrow through the centre; up is the second component."""
    (x, y), (dx, dy) = center, (direction[0] * length, -direction[1] * length)
    tip = (x + dx, y + dy)
    draw.line([(x - dx, y - dy), tip], fill=_INK, width=max(1, round(length / 5)))
    sides = [(tip[0] - 0.8 * dx + s * 0.5 * dy, tip[1] - 0.8 * dy - s * 0.5 * dx) for s in (1, -1)]
    draw.polygon([tip, *sides], fill=_INK)


def _font(text: str, size: float, width: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, smaller where the text would not fit."""
    font = ImageFont.load_default(size)
    return (
        font if font.getlength(text) <= width else ImageFont.load_default(max(6.0, size * width / font.getlength(text)))
    )
