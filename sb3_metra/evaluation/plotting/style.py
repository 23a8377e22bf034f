"""What the pictures share: a colour for each skill, and how a figure is written."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def skill_colors(skills: np.ndarray) -> np.ndarray:
    """
    A colour for each skill: the hue is the angle of the first two components, or the number of a one-hot skill.

    :param skills: (n, skill_dim)
    :return: red, green and blue in [0, 1], (n, 3)
    """
    skills = np.asarray(skills, dtype=np.float64)
    if skills.shape[1] == 1:  # -1 and +1, blue and red
        hue = (skills[:, 0] < 0) * 0.6
    elif ((skills == 0) | (skills == 1)).all() and (skills.sum(axis=1) == 1).all():
        hue = skills.argmax(axis=1) / skills.shape[1]
    else:
        hue = np.arctan2(skills[:, 1], skills[:, 0]) / (2 * np.pi) % 1.0
    hsv = np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.8)], axis=1)
    return np.asarray(matplotlib.colors.hsv_to_rgb(hsv))


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """
    Make a figure ready to be written, and write it where a path is given.

    :param figure: any figure
    :param path: where to write it; its ending chooses the format, PNG, SVG or PDF
    :return: the figure
    """
    FigureCanvasAgg(figure)  # no window, no global state
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure
