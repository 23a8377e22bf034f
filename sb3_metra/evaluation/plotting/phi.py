"""Where skills go in phi's space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from sb3_metra.common.inputs import check_choice
from sb3_metra.common.skill_model import Encoder
from sb3_metra.evaluation.faithfulness import encode_trajectories
from sb3_metra.evaluation.plotting.style import Theme
from sb3_metra.evaluation.plotting.trajectories import over_time, picture_paths
from sb3_metra.evaluation.projection import principal_plane
from sb3_metra.evaluation.rollout import SkillTrajectory


def plot_phi(
    trajectories: Sequence[SkillTrajectory],
    encode: Encoder,
    path: str | Path | None = None,
    title: str | None = None,
    *,
    projection: Literal["pca", "first"] = "pca",
    theme: Theme = "light",
) -> Figure:
    """
    The plane of phi, with each skill's path in the colour it has among the trajectories. The axes say what they show.

    :param trajectories: what :func:`~sb3_metra.evaluation.rollout_skills` returns
    :param encode: phi
    :param path: where to write the picture; its ending chooses the format: PNG, SVG, PDF, ...
    :param title: a line above it
    :param projection: with more than two dimensions, the two principal components of all states or phi's first two;
        one dimension is drawn over time
    :param theme: ``"light"`` or ``"dark"``
    """
    paths, names = project_phi(encode_trajectories(trajectories, encode), projection)
    return picture_paths(paths, names, np.stack([t.skill for t in trajectories]), path, title, theme)


def project_phi(
    paths: Sequence[np.ndarray], projection: Literal["pca", "first"] = "pca"
) -> tuple[list[np.ndarray], tuple[str, str]]:
    """
    What of phi can be drawn on paper.

    :param paths: phi of each trajectory's states, (T + 1, dim)
    :param projection: as for :func:`plot_phi`
    :return: for each trajectory (T + 1, 2), and what the two axes show
    """
    check_choice("projection", projection, ("pca", "first"))
    dim = paths[0].shape[1]
    if dim == 1:
        return [over_time(path[:, 0]) for path in paths], ("step", "φ")
    if dim == 2 or projection == "first":
        of = "" if dim == 2 else f" of {dim}"
        return [path[:, :2] for path in paths], (f"φ, dimension 1{of}", f"φ, dimension 2{of}")
    center, components, shares = principal_plane(np.concatenate(paths))
    first, second = (f"φ, principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in range(2))
    return [(path - center) @ components.T for path in paths], (first, second)
