"""Pictures and videos: what is drawn, in which colours, and what cannot be drawn."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra.evaluation import SkillTrajectory, rollout_skills
from sb3_metra.evaluation.plotting import (
    plot_curves,
    plot_phi,
    plot_small_multiples,
    plot_training,
    plot_trajectories,
    skill_colors,
)
from sb3_metra.evaluation.plotting.curves import common_grid
from sb3_metra.evaluation.plotting.phi import project_phi
from sb3_metra.evaluation.plotting.style import angle_colors
from sb3_metra.evaluation.video import describe_skills, film_skills, label_frame, tile

# Machado et al. (2009), dichromats: from linear RGB to linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


class FollowSkill:
    """A policy whose action is its skill."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.asarray(state, dtype=np.float32), state


def straight(skills: np.ndarray, k: int = 2, n: int = 5) -> list[SkillTrajectory]:
    """Each skill goes straight, by its first components, for n steps."""
    paths = [np.outer(np.arange(n + 1.0), np.resize(skill, k)) for skill in skills]
    return [SkillTrajectory(skill.astype(np.float32), path, path) for skill, path in zip(skills, paths, strict=True)]


def texts(figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def lab(colors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB colours as an eye sees them that has this matrix."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(matrix).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


# Colours


def test_colors_tell_directions_apart() -> None:
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    colors = skill_colors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    np.testing.assert_allclose(colors, angle_colors(angles))
    assert len(np.unique(skill_colors(np.eye(5)).round(3), axis=0)) == 5
    assert len(np.unique(skill_colors(np.array([[-1.0], [1.0]])), axis=0)) == 2
    np.testing.assert_allclose(angle_colors(np.array([0.0])), angle_colors(np.array([2 * np.pi])))
    with pytest.raises(ValueError, match=r"skills must have shape \(n, skill_dim\), got \(3,\)"):
        skill_colors(np.ones(3))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eye", ["normal", *DEFICIENCIES])
def test_the_colour_blind_tell_eight_directions_apart(eye: str, theme) -> None:
    """A distance of 2.3 in CIELAB is just noticeable. The full hues of HSV come down to 3.6 here."""
    seen = lab(angle_colors(np.arange(8) * np.pi / 4, theme), DEFICIENCIES.get(eye, np.eye(3)))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(8)
    assert distances.min() > 15


@pytest.mark.parametrize(("theme", "ground"), [("light", 100.0), ("dark", 7.0)])
def test_colors_stand_out_from_the_ground(theme, ground: float) -> None:
    lightness = lab(angle_colors(np.linspace(0, 6, 50), theme), np.eye(3))[:, 0]
    assert np.abs(lightness - ground).min() > 20


# Skills


@pytest.mark.parametrize(
    ("ending", "theme"),
    [
        pytest.param(ending, theme, marks=[] if (ending == "svg") == (theme == "dark") else [pytest.mark.slow])
        for ending in ("png", "svg", "pdf")
        for theme in ("light", "dark")
    ],
)
def test_trajectories_are_drawn_as_they_are(tmp_path: Path, ending: str, theme) -> None:
    env = make_vec_env("sb3_metra/PointMass-v0", 2)
    trajectories = rollout_skills(FollowSkill(), env, np.array([[1.0, 0.0], [-0.6, 0.8]]))
    path = tmp_path / f"skills.{ending}"
    figure = plot_trajectories(trajectories, path, title="two skills", theme=theme)
    axes = figure.axes[0]
    assert len(axes.lines) == 4  # a path and its end for each skill
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), trajectories[0].coordinates)
    np.testing.assert_allclose(axes.lines[2].get_color(), skill_colors(np.array([[-0.6, 0.8]]), theme)[0], atol=1e-6)
    assert {"x", "y", "two skills", "skill z", "$z_1$", "$z_2$"} <= texts(figure)
    assert path.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm", "pdf": b"%PDF"}[ending]
    dark = np.mean(matplotlib.colors.to_rgb(figure.get_facecolor())) < 0.5
    assert dark == (theme == "dark")


def test_a_theme_leaves_the_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    plot_trajectories(straight(np.eye(2) * 0.9), theme="dark")
    assert dict(matplotlib.rcParams) == before


def test_the_key_explains_the_colours() -> None:
    assert "skill z, the\nfirst 2 of 4\ncomponents" in texts(plot_trajectories(straight(np.full((3, 4), 0.5))))
    assert {"skill", "0", "1", "2"} <= texts(plot_trajectories(straight(np.eye(3))))
    assert {"z = +1", "z = -1"} <= texts(plot_trajectories(straight(np.array([[1.0], [-1.0]]))))
    assert {"z > 0", "z < 0"} <= texts(plot_trajectories(straight(np.array([[0.3], [-1.4]]))))


def test_one_coordinate_is_drawn_over_time() -> None:
    figure = plot_trajectories(straight(np.array([[1.0], [-1.0]]), k=1))
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[t, t] for t in range(6)])
    assert {"step", "x"} <= texts(figure)
    other = plot_trajectories(straight(np.array([[1.0, 2.0]])), columns=[1])
    np.testing.assert_array_equal(other.axes[0].lines[0].get_ydata(), 2.0 * np.arange(6))
    assert {"step", "y"} <= texts(other)


def test_each_discrete_skill_has_a_panel(tmp_path: Path) -> None:
    figure = plot_small_multiples(straight(np.eye(5)[[0, 1, 2, 3, 4, 4]]), tmp_path / "panels.png")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"skill {i}" for i in range(5)]
    assert len(panels[4].lines) == 4 + 2 * 2  # the others in grey, and two episodes with their ends
    assert len(panels[0].lines) == 5 + 1 * 2
    with pytest.raises(ValueError, match="skills must be one-hot for a panel each"):
        plot_small_multiples(straight(np.array([[0.6, 0.8]])))


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    untold = [SkillTrajectory(np.ones(2, np.float32), np.zeros(0), np.zeros((2, 2)))]
    for plot in (plot_trajectories, plot_small_multiples):
        with pytest.raises(ValueError, match=r'trajectories must have coordinates, got none.*info\["coordinates"\]'):
            plot(untold)
    with pytest.raises(ValueError, match=r"columns must be among 0 to 1, got \[2\]"):
        plot_trajectories(straight(np.eye(2)), columns=[2])
    with pytest.raises(ValueError, match=r'theme must be "light" or "dark", got \'sepia\''):
        plot_trajectories(straight(np.eye(2)), theme="sepia")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"path must end in one of \..*\.png.*, got 'skills.docx'"):
        plot_trajectories(straight(np.eye(2)), tmp_path / "skills.docx")


# phi


def test_phi_is_projected_on_what_varies_most() -> None:
    draws = np.random.default_rng(0).normal(size=(50, 4))
    independent, _ = np.linalg.qr(draws - draws.mean(axis=0))
    wide = 7.0 + independent * [0.1, 5.0, 0.1, 3.0]
    (plane,), names = project_phi([wide])
    centred = wide - wide.mean(axis=0)
    np.testing.assert_allclose(np.abs(plane[:, 0]), np.abs(centred[:, 1]), atol=1e-9)
    np.testing.assert_allclose(np.abs(plane[:, 1]), np.abs(centred[:, 3]), atol=1e-9)
    assert names[0] == "φ, principal component 1 (73% of the variance)"  # 25 of 34.02
    (first,), names = project_phi([wide], "first")
    np.testing.assert_array_equal(first, wide[:, :2])
    assert names == ("φ, dimension 1 of 4", "φ, dimension 2 of 4")
    assert project_phi([wide[:, :2]])[1] == ("φ, dimension 1", "φ, dimension 2")
    assert project_phi([wide[:, :1]])[1] == ("step", "φ")
    with pytest.raises(ValueError, match='projection must be "pca" or "first"'):
        project_phi([wide], "tsne")  # type: ignore[arg-type]


def test_phi_is_drawn_in_the_colours_of_the_skills(tmp_path: Path) -> None:
    trajectories = straight(np.array([[1.0, 0.0], [0.6, -0.8]]))
    figure = plot_phi(trajectories, lambda observations: 3.0 * observations, tmp_path / "phi.svg")
    np.testing.assert_allclose(figure.axes[0].lines[2].get_xydata(), 3.0 * trajectories[1].coordinates)
    np.testing.assert_allclose(figure.axes[0].lines[2].get_color(), skill_colors(np.array([[0.6, -0.8]]))[0], atol=1e-6)


# Curves


def test_runs_meet_on_a_common_grid() -> None:
    first, second = np.array([0.0, 10.0, 20.0]), np.array([5.0, 15.0])
    grid, values = common_grid([(first, first / 10), (second, np.array([1.0, 3.0]))])
    np.testing.assert_array_equal(grid, [10.0, 15.0])
    np.testing.assert_array_equal(values, [[1.0, 1.5], [2.0, 3.0]])
    long = np.arange(1000.0)
    assert len(common_grid([(long, long), (long, long)])[0]) == 100


def test_curves_have_a_line_a_run_and_an_interval(tmp_path: Path) -> None:
    runs = [(np.arange(4.0), np.array([0.0, 1.0, 2.0, value])) for value in (3.0, 6.0, 9.0)]
    figure = plot_curves({"a": runs, "b": runs[:1]}, tmp_path / "curves.svg")
    axes = figure.axes[0]
    assert len(axes.lines) == 3 + 1 + 1
    dark = plot_curves({"a": runs, "b": runs[:1]}, theme="dark").axes[0]
    for drawn, ours in ((axes, ("#0072B2", "#E69F00")), (dark, ("#56B4E9", "#E69F00"))):  # outside of the theme, too
        assert (drawn.lines[0].get_color(), drawn.lines[4].get_color()) == ours
    np.testing.assert_array_equal(axes.lines[3].get_ydata(), [0.0, 1.0, 2.0, 6.0])
    assert {"a (mean of 3)", "b"} <= texts(figure)
    with pytest.raises(ValueError, match="at least one run for each label, got none for 'c'"):
        plot_curves({"c": []})
    with pytest.raises(ValueError, match="at least one finite point, got none for 'd'"):
        plot_curves({"d": [(np.arange(2.0), np.full(2, np.nan))]})
    pytest.importorskip("rliable")
    banded = plot_curves({"a": runs, "b": runs[:1]}, interval="iqm").axes[0]
    (band,) = banded.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert 6.0 < heights.max() <= 9.0


def test_training_is_drawn_from_the_log(tmp_path: Path) -> None:
    nan = np.nan
    log = {
        "time/total_timesteps": np.array([1.0, 2.0, 3.0]),
        "train/dual_lambda": np.array([30.0, nan, 3.0]),
        "train/displacement_norm": np.array([0.1, 0.2, 0.3]),
    }
    figure = plot_training(log, tmp_path / "training.png")
    assert len(figure.axes) == 2
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[1.0, 30.0], [3.0, 3.0]])
    assert figure.axes[0].get_yscale() == "log"
    with pytest.raises(ValueError, match="progress must have time/total_timesteps and one of train/dual_lambda"):
        plot_training({"time/total_timesteps": np.arange(2.0)})


# Videos


def test_videos_are_written(tmp_path: Path) -> None:
    env = make_vec_env("sb3_metra/PointMass-v0", 2, env_kwargs={"width": 32, "height": 32})
    trajectories = rollout_skills(FollowSkill(), env, np.array([[1.0, 0.0], [0.0, -1.0]]), frames=True)
    assert [len(t.frames) for t in trajectories] == [100, 100]
    for trajectory in trajectories:
        del trajectory.frames[5:]
    for name in ("skills.gif", "skills.mp4"):
        video = iio.imread(film_skills(trajectories, tmp_path / name))
        assert video.shape == (5, 32 + 14, 64, 3)
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        film_skills(trajectories, tmp_path / "skills.webm")
    with pytest.raises(ValueError, match="roll skills out with frames=True"):
        film_skills(straight(np.eye(2)), tmp_path / "skills.mp4")


def test_labels_say_which_skill_it_is() -> None:
    assert describe_skills(np.eye(3))[2] == ("skill 2", None)
    assert describe_skills(np.array([[1.0], [-1.0]])) == [("z = +1", None), ("z = -1", None)]
    circle = describe_skills(np.array([[1.0, 0.0], [3.0, -4.0], [-1e-9, 1.0]]))  # no one-hot: one of many directions
    assert [text for text, _ in circle] == ["z = (1.00, 0.00)", "z = (3.00, -4.00)", "z = (0.00, 1.00)"]
    assert circle[1][1] == pytest.approx((0.6, -0.8))
    assert describe_skills(np.array([[0.0, 0.0, 1.0, 0.5]])) == [("z = (0.00, 0.00, ...)", None)]


def test_a_label_leaves_the_picture_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    plain, arrow = label_frame(frame, "skill 3"), label_frame(frame, "skill 3", (0.0, 1.0))
    assert plain.shape == (64 + 14, 80, 3)
    np.testing.assert_array_equal(plain[15:-1, 1:-1], frame[1:-1, 1:-1])  # but for a line around it
    assert (plain[:14] < 100).any()  # there is text
    # the arrow points up: its head, wider than its shaft, is in the upper half of the strip
    ink = (arrow[:14, :14] < 100).all(axis=2).sum(axis=1)
    assert ink[:7].max() > ink[7:].max()


def test_tile_fills_up_with_white() -> None:
    images = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    grid = tile(images)
    assert grid.shape == (4, 6, 3)
    for value, corner in ((10, grid[:2, :3]), (20, grid[:2, 3:]), (30, grid[2:, :3]), (255, grid[2:, 3:])):
        np.testing.assert_array_equal(corner, value)
