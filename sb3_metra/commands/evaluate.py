"""``sb3-metra evaluate``: measure a saved model, print the result as JSON, and draw and film its skills."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.algorithms.metra import METRA
from sb3_metra.commands.loading import find_model, load_model, parse_keyword_arguments, registered
from sb3_metra.envs.rendering import choose_gl
from sb3_metra.evaluation.coverage import achieved_tasks
from sb3_metra.evaluation.metrics import has_coordinates, headline, skill_metrics, skill_table
from sb3_metra.evaluation.report_page.recording import RENDERING_HELP
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills, skills_to_show
from sb3_metra.headless import drawing_kwargs, follow_body, leave_out_shadows


@dataclass
class Evaluation:
    """
    What was measured.

    :param result: metrics and what they were measured with, ready for JSON
    :param table: a row for each skill of the first seed
    :param trajectories: of the first seed
    :param model: the model
    """

    result: dict[str, Any]
    table: list[dict[str, Any]]
    trajectories: list[SkillTrajectory] = field(repr=False)
    model: METRA = field(repr=False)


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    options = _parser().parse_args(arguments)
    env_kwargs = parse_keyword_arguments(options.env_kwargs)
    if options.out is None and options.video:
        raise ValueError("--video needs a folder to write to: add --out DIR.")
    with redirect_stdout(sys.stderr):
        if options.out is not None:
            import sb3_metra.evaluation.plotting  # noqa: F401  a missing library is told before anything is measured
        if options.video:
            check_renders(options.env, env_kwargs)
        evaluation = evaluate(
            options.model,
            options.env,
            n_skills=options.n_skills,
            seeds=options.seed,
            cell_size=options.cell_size[0] if len(options.cell_size) == 1 else options.cell_size,
            columns=options.columns,
            n_envs=options.n_envs,
            env_kwargs=env_kwargs,
            device=options.device,
            progress_bar=options.progress,
        )
        if headline({k: v for k, v in evaluation.result.items() if v is not None}) is None:
            print(
                f'No coverage: {options.env} reports neither info["coordinates"] nor info["tasks"]; see the page '
                "on environments for how to add one of them.",
                file=sys.stderr,
            )
        if options.table:
            print(_format_table(evaluation), file=sys.stderr)
        if options.out is not None:
            written = write_pictures(evaluation, options.out, options.theme)
            if options.video:
                written.append(film(evaluation, options.video, options.out))
            print("\n".join(["Written:", *(f"  {path}" for path in written)]), file=sys.stderr)
    print(json.dumps(evaluation.result, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-metra evaluate", description="Measure a saved model's skills and print the result as JSON."
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the saved model, a zip file, or the folder of a run")
    add("--env", required=True, metavar="ID", help="environment")
    add("--n-skills", type=int, default=48, help="skills, one episode each (default: %(default)s)")
    add("--seed", type=int, nargs="+", default=[0], help="of skills and environment; of several, the mean (default: 0)")
    add("--cell-size", type=float, nargs="+", default=[1.0], help="edge of a cell, or one a coordinate (default: 1)")
    add("--columns", type=int, nargs="+", help="coordinates to measure, by number from 0 (default: all)")
    add("--n-envs", type=int, default=1, help="environments at once; another number, other starts (default: 1)")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python")
    add("--out", type=Path, metavar="DIR", help="write pictures, the table as CSV and the result there")
    add("--video", type=int, default=0, metavar="N", help="film N skills, too, into the folder of --out")
    add("--theme", choices=["light", "dark"], default="light", help="of the pictures (default: %(default)s)")
    add("--table", action="store_true", help="print a row for each skill on the standard error")
    add("--progress", action="store_true", help="show a progress bar on the standard error")
    add("--device", default="auto", help="PyTorch device (default: %(default)s)")
    return parser


def evaluate(
    path: Path,
    env_id: str,
    n_skills: int = 48,
    seeds: Sequence[int] = (0,),
    cell_size: float | Sequence[float] = 1.0,
    columns: Sequence[int] | None = None,
    n_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    progress_bar: bool = False,
) -> Evaluation:
    """
    Measure the skills of a saved model.

    :param path: the saved model, or the folder of a run
    :param env_id: id of the environment
    :param n_skills: number of skills, one episode each
    :param seeds: of skills and environment; of several, each metric is the mean
    :param cell_size: edge of a cell in the environment's unit, or one for each column
    :param columns: which coordinates to use, by number; ``None``: all
    :param n_envs: number of environments
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :param progress_bar: show a progress bar
    :return: all metrics, and what they were measured with
    """
    for name, value in (("--n-skills", n_skills), ("--n-envs", n_envs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    path = find_model(path)
    model, env = load_model(path, env_id, n_envs, env_kwargs=env_kwargs, device=device)
    options: dict[str, Any] = {"cell_size": cell_size, "columns": columns}
    try:
        by_seed = [_roll_out(model, env, n_skills, seed, progress_bar) for seed in seeds]
    finally:
        env.close()
    metrics = [
        skill_metrics(t, model.skill_prior, model.encode, constraint_norm=model.constraint_norm, **options)
        for t in by_seed
    ]
    result: dict[str, Any] = {name: _mean([m[name] for m in metrics]) for name in metrics[0]}
    result.setdefault("policy_state_coverage", None)
    if by_seed[0][0].tasks:
        result["tasks"] = achieved_tasks(by_seed[0])
    result |= {"n_skills": n_skills, "seed": seeds[0] if len(seeds) == 1 else list(seeds), "n_envs": n_envs}
    result |= {"env": env_id, "env_kwargs": env_kwargs or {}, "model": str(path), **options}
    result["num_timesteps"] = model.num_timesteps
    if len(seeds) > 1:
        result["by_seed"] = metrics
    table = skill_table(by_seed[0], model.skill_prior, model.encode, **options)
    return Evaluation(result, table, by_seed[0], model)


def _roll_out(model: METRA, env: VecEnv, n_skills: int, seed: int, progress_bar: bool) -> list[SkillTrajectory]:
    skills = model.skill_prior.evaluation_skills(n_skills, np.random.default_rng(seed))
    return rollout_skills(model, env, skills, seed=seed, progress_bar=progress_bar)


def _mean(values: list[float]) -> float | None:
    """The mean; ``None`` where it is not a number, which JSON does not know."""
    mean = values[0] if len(values) == 1 else float(np.mean(values))
    return mean if np.isfinite(mean) else None


def write_pictures(evaluation: Evaluation, out: Path, theme: str) -> list[Path]:
    """
    Draw the skills, in the plane or over time and in phi's, as PNG and SVG, and write the table and the result.

    :param evaluation: what :func:`evaluate` returns
    :param out: folder to write to
    :param theme: ``"light"`` or ``"dark"``
    :return: what was written
    """
    from sb3_metra.evaluation.plotting import plot_phi, plot_small_multiples, plot_trajectories

    out.mkdir(parents=True, exist_ok=True)
    trajectories, columns = evaluation.trajectories, evaluation.result["columns"]
    style: dict[str, Any] = {"theme": theme}
    written = [out / "evaluation.json", out / "skills.csv"]
    written[0].write_text(json.dumps(evaluation.result, indent=2) + "\n", encoding="utf-8")
    with written[1].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, evaluation.table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(evaluation.table)
    for ending in ("png", "svg"):
        if has_coordinates(trajectories):
            written.append(out / f"skills.{ending}")
            plot_trajectories(trajectories, written[-1], columns=columns, **style)
            if evaluation.model.skill_prior.discrete:
                written.append(out / f"each_skill.{ending}")
                plot_small_multiples(trajectories, written[-1], columns=columns, **style)
        written.append(out / f"phi.{ending}")
        plot_phi(trajectories, evaluation.model.encode, written[-1], **style)
    return written


def check_renders(env_id: str, env_kwargs: dict[str, Any]) -> None:
    """
    Refuse to film an environment that has no pictures.

    :param env_id: id of the environment
    :param env_kwargs: its arguments
    :raises ValueError: where it does not name ``"rgb_array"`` among its render modes
    """
    env = gym.make(registered(env_id), **env_kwargs)
    modes = env.metadata.get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f'--video needs an environment with the render mode "rgb_array", got {env_id} with {modes}.')


def film(evaluation: Evaluation, n_skills: int, out: Path) -> Path:
    """
    Film skills side by side, each labelled, as the demonstration does unless ``env_kwargs`` say otherwise.

    :param evaluation: what :func:`evaluate` returns
    :param n_skills: number of skills
    :param out: folder to write ``skills.mp4`` to
    :return: the file
    """
    from sb3_metra.evaluation.video import film_skills

    choose_gl()
    result = evaluation.result
    env_kwargs = drawing_kwargs(result["env"], 320, 240) | result["env_kwargs"]
    model, env = load_model(Path(result["model"]), result["env"], env_kwargs=env_kwargs)
    try:
        for single in env.unwrapped.envs:  # type: ignore[attr-defined]
            leave_out_shadows(single)
            follow_body(single)
        skills = skills_to_show(model.skill_prior, n_skills)
        trajectories = rollout_skills(model, env, skills, frames=True, seed=0)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # OpenGL fails in many ways
        raise OSError(f"--video: drawing failed ({error or type(error).__name__}): {RENDERING_HELP}.") from error
    else:
        fps = float(env.metadata.get("render_fps", 20.0))  # type: ignore[arg-type]
    finally:
        env.close()
    return film_skills(trajectories, out / "skills.mp4", fps)


def _format_table(evaluation: Evaluation) -> str:
    """Columns of a fixed width, numbers with three digits; a skill is its number where it is one-hot."""
    rows = []
    for row in evaluation.table:
        skill = row["skill"]
        discrete = evaluation.model.skill_prior.discrete
        name = str(int(np.argmax(skill))) if discrete else " ".join(f"{component:+.2f}" for component in skill)
        rows.append({"skill": name, **{key: _cell(value) for key, value in row.items() if key != "skill"}})
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = ["  ".join(key.rjust(width) for key, width in widths.items())]
    lines += ["  ".join(row[key].rjust(width) for key, width in widths.items()) for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(value) or "-" if isinstance(value, list) else str(value)
