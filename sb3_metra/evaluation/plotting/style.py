"""What the pictures share: light and dark, a colour for each skill and the key to it, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_metra.common.inputs import check_choice, check_folder, check_path
from sb3_metra.evaluation.skills import is_one_hot, skill_angles

Theme = Literal["light", "dark"]

# Okabe and Ito's colours, which the colour-blind tell apart, for curves: those first that stand out from the ground.
_CURVES = {
    "light": ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"),
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00"),
}
_INK = {"light": ("#ffffff", "#262626", "#d9d9d9"), "dark": ("#14171c", "#e6e6e6", "#3a3f47")}  # ground, text, grid
_LIGHTNESS = {"light": 55.0, "dark": 64.0}
_MANY = 24  # entries of a legend, at most


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """
    While it is open, figures are made in a theme, and text stays text in SVG and PDF.

    :param theme: ``"light"`` or ``"dark"``
    """
    check_choice("theme", theme, tuple(_INK))
    ground, text, grid = _INK[theme]
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), text)
    colors |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), ground)
    style: dict[str, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=[*_CURVES[theme], text]),
        "axes.titlesize": 10.0,
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "font.size": 9.0,
        "legend.frameon": False,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(colors | style):
        yield


def skill_colors(skills: np.ndarray, theme: Theme = "light") -> np.ndarray:
    """
    A colour for each skill: the angle of the first two components, or the number of a one-hot skill, around a circle
    whose lightness changes with its hue, so that the colour-blind tell opposite and neighbouring directions apart.

    :param skills: (n, skill_dim)
    :param theme: ground that they are drawn on
    :return: red, green and blue in [0, 1], (n, 3)
    """
    return angle_colors(skill_angles(skills), theme)


def angle_colors(angles: np.ndarray, theme: Theme = "light") -> np.ndarray:
    """
    The colours of the wheel: a tilted circle in CIELAB, from orange by green and blue to purple.

    :param angles: in radians, (n,)
    :param theme: ground that they are drawn on
    :return: red, green and blue in [0, 1], (n, 3)
    """
    check_choice("theme", theme, tuple(_INK))
    angles = np.asarray(angles, dtype=np.float64)
    lightness = _LIGHTNESS[theme] + 22.0 * np.sin(angles + 0.3)
    green_red, blue_yellow = -50.0 * np.sin(angles + 0.4), 55.0 * np.cos(angles)
    y = (lightness + 16.0) / 116.0
    scaled = np.stack([y + green_red / 500.0, y, y - blue_yellow / 200.0], axis=-1)
    white = np.array([0.95047, 1.0, 1.08883])  # CIE D65
    xyz = white * np.where(scaled > 6 / 29, scaled**3, 3 * (6 / 29) ** 2 * (scaled - 4 / 29))
    to_rgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(xyz @ to_rgb.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def draw_skill_key(axes: Axes, skills: np.ndarray, theme: Theme) -> None:
    """
    Explain the colours: a wheel of directions, or a list of the few skills there are.

    :param axes: to draw into, which hold nothing else
    :param skills: (n, skill_dim)
    :param theme: as for :func:`skill_colors`
    """
    axes.set_axis_off()
    if skills.shape[1] == 1 or is_one_hot(skills):
        _draw_legend(axes, skills, theme)
        return
    angles = np.linspace(0.0, 2 * np.pi, 181)
    x, y = np.cos(angles), np.sin(angles)
    ring = np.stack([np.outer([0.62, 1.0], x), np.outer([0.62, 1.0], y)])
    faces = np.concatenate([angle_colors((angles[:-1] + angles[1:]) / 2, theme), np.ones((180, 1))], axis=1)
    mesh = axes.pcolormesh(ring[0], ring[1], np.zeros((1, 180)), rasterized=False)
    mesh.set_array(None)
    mesh.set_facecolor(faces)  # type: ignore[arg-type]
    mesh.set_edgecolor("face")
    axes.set_xlim(-1.7, 1.7)
    axes.set_ylim(-1.7, 1.7)
    axes.set_aspect("equal")
    for text, place in (("$z_1$", (1.4, 0.0)), ("$z_2$", (0.0, 1.4))):
        axes.annotate("", (0.55 * place[0] / 1.4, 0.55 * place[1] / 1.4), (0, 0), arrowprops={"arrowstyle": "->",
                      "color": matplotlib.rcParams["text.color"], "shrinkA": 0, "shrinkB": 4, "lw": 0.8})  # fmt: skip
        axes.text(*place, text, ha="center", va="center")
    n = skills.shape[1]
    axes.text(0.0, -1.3, "skill z" if n == 2 else f"skill z, the\nfirst 2 of {n}\ncomponents", ha="center", va="top")


def _draw_legend(axes: Axes, skills: np.ndarray, theme: Theme) -> None:
    if skills.shape[1] == 1:
        shown = np.array([sign for sign in (1.0, -1.0) if (np.sign(skills[:, 0]) == sign).any()])[:, None]
        labels = ["z > 0" if sign > 0 else "z < 0" for sign in shown[:, 0]]
        if (np.abs(skills) == 1).all():
            labels = [f"z = {sign:+.0f}" for sign in shown[:, 0]]
    else:
        numbers = np.unique(skills.argmax(axis=1))[:_MANY]
        shown, labels = np.eye(skills.shape[1])[numbers], [str(number) for number in numbers]
    for color, label in zip(skill_colors(shown, theme), labels, strict=True):
        axes.plot([], [], color=color, linewidth=2.5, label=label)
    columns = 2 if len(labels) > 12 else 1
    axes.legend(loc="center left", title="skill", ncols=columns, borderaxespad=0.0, handlelength=1.2)


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """
    Make a figure ready to be written, and write it if a path is given.

    :param figure: any figure
    :param path: where to write it; its ending chooses the format: PNG, SVG, PDF, ...
    :return: the figure
    :raises ValueError: for an ending that matplotlib cannot write, and a folder that nothing can be written to
    """
    FigureCanvasAgg(figure)  # no window, no global state
    if path is not None:
        figure.savefig(check_picture("path", path), dpi=150, facecolor=figure.get_facecolor())
    return figure


def check_picture(name: str, path: str | Path) -> Path:
    """
    Refuse a path that no picture can be written to, before there is a picture.

    :param name: of the argument
    :param path: where to write it
    :return: the path, in a folder that exists
    :raises ValueError: for an ending that matplotlib cannot write, and a folder that nothing can be written to
    """
    picture, endings = check_path(name, path), sorted(FigureCanvasAgg.filetypes)
    if picture.suffix[1:].lower() not in endings:
        raise ValueError(f"{name} must end in one of .{', .'.join(endings)}, got {picture.name!r}")
    check_folder(f"the folder of {name}", picture.parent)
    return picture
