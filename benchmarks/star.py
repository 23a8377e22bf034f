"""Film where the skills of a model in the plane go, beside the bodies of four of them, as an animated WebP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import sb3_metra
from sb3_metra.envs.batch import make_fast_vec_env
from sb3_metra.envs.rendering import choose_gl
from sb3_metra.evaluation.plotting.style import skill_colors
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills
from sb3_metra.headless import drawing_kwargs, follow_body, leave_out_shadows
from sb3_metra.pretrained import find_pretrained

_PAUSE = 2000  # milliseconds, at the end
_SIDE = 180  # pixels of a body's picture; the star is twice as high


def film_bodies(model: sb3_metra.METRA, env_id: str, skills: np.ndarray, seed: int) -> list[SkillTrajectory]:
    """Follow each skill for an episode, with a camera behind the body."""
    env = gym.make(env_id, **drawing_kwargs(env_id, _SIDE, _SIDE))
    leave_out_shadows(env)
    follow_body(env)
    try:
        return rollout_skills(model, env, skills, frames=True, seed=seed)
    finally:
        env.close()


def draw_star(paths: Sequence[np.ndarray], colors: np.ndarray, filmed: Sequence[int], reach: float) -> np.ndarray:
    """The ways so far, with a dot where each body is and a ring about those that are filmed."""
    figure = Figure(figsize=(3.6, 3.6), dpi=_SIDE / 1.8)
    axes = figure.add_axes((0.11, 0.09, 0.87, 0.87))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    for path, color in zip(paths, colors, strict=True):
        axes.plot(path[:, 0], path[:, 1], color=color, linewidth=1)
        axes.plot(*path[-1], "o", color=color, markersize=3)
    for index in filmed:
        axes.plot(*paths[index][-1], "o", color=colors[index], markersize=9, fillstyle="none", markeredgewidth=2)
    axes.text(0.99, 0.01, "metres", transform=axes.transAxes, fontsize=7, ha="right", va="bottom")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def frame_with_border(frame: np.ndarray, color: np.ndarray) -> np.ndarray:
    """A picture with a border in the colour of its skill."""
    image = Image.fromarray(frame)
    border = tuple(int(255 * x) for x in color[:3])
    ImageDraw.Draw(image).rectangle((0, 0, _SIDE - 1, _SIDE - 1), outline=border, width=4)  # type: ignore[arg-type]
    return np.asarray(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", default="ant", help="a model that comes with the package")
    parser.add_argument("--out", type=Path, required=True, help="the film, a .webp")
    parser.add_argument("--n-skills", type=int, default=48)
    parser.add_argument("--every", type=int, default=4, help="steps between two pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    choose_gl()
    model = sb3_metra.load_pretrained(args.pretrained, device="cpu")
    env_id = find_pretrained(args.pretrained)[1]["env"]
    angles = 2 * np.pi * np.arange(args.n_skills) / args.n_skills
    skills = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    colors = skill_colors(skills)
    env = make_fast_vec_env(env_id, 8)
    ways = [t.coordinates for t in rollout_skills(model, env, skills, seed=args.seed)]
    filmed = [i * args.n_skills // 4 for i in range(4)]
    bodies = film_bodies(model, env_id, skills[filmed], args.seed)
    for index, body in zip(filmed, bodies, strict=True):
        ways[index] = body.coordinates
    reach = 1.05 * max(np.abs(way[:, :2]).max() for way in ways)
    images = []
    for step in range(1, max(map(len, ways)), args.every):
        star = draw_star([way[: step + 1, :2] for way in ways], colors, filmed, reach)
        clips = [
            frame_with_border(body.frames[min(step, len(body.frames) - 1)], colors[index])
            for index, body in zip(filmed, bodies, strict=True)
        ]
        grid = np.concatenate([np.concatenate(clips[:2], axis=1), np.concatenate(clips[2:], axis=1)])
        images.append(Image.fromarray(np.concatenate([star, grid], axis=1)))
    rate = env.get_attr("metadata", 0)[0]["render_fps"]
    images[-1].save(  # the end comes first, for whoever shows one picture only
        args.out,
        save_all=True,
        append_images=images,
        duration=[_PAUSE] + len(images) * [round(1000 * args.every / rate)],
        loop=0,
        quality=50,
        method=4,
    )
    print(f"{args.out}: {len(images)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
