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

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.commands.loading import find_model, load_model, make_env, parse_keyword_arguments
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.inputs import check_count, check_folder, check_seed, path_of
from sb3_metra.common.skill_model import SkillModel, encoder_of, require_prior
from sb3_metra.envs.rendering import choose_gl
from sb3_metra.evaluation.coverage import achieved_tasks, cells, check_grid, draw_skills
from sb3_metra.evaluation.metadata import frames_per_second_of
from sb3_metra.evaluation.metrics import constraint_norm_of, headline, skill_metrics, skill_table
from sb3_metra.evaluation.report_page.recording import RENDERING_HELP
from sb3_metra.evaluation.rollout import SkillTrajectory, has_coordinates, rollout_skills
from sb3_metra.evaluation.skills import skills_to_show
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
    model: SkillModel = field(repr=False)


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    options = _parser().parse_args(arguments)
    env_kwargs = parse_keyword_arguments(options.env_kwargs)
    check_count("--video", options.video, low=0)
    if options.out is None and options.video:
        raise ValueError("--video needs a folder to write to: add --out DIR.")
    with redirect_stdout(sys.stderr):
        if options.out is not None:
            check_folder("--out", options.out)
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
            max_episode_steps=options.max_episode_steps,
            env_kwargs=env_kwargs,
            device=options.device,
            trusted=options.trust,
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
                written.append(film(evaluation, options.video, options.out, options.trust))
            print("\n".join(["Written:", *(f"  {path}" for path in written)]), file=sys.stderr)
    print(json.dumps(evaluation.result, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-metra evaluate", description="Measure a saved model's skills and print the result as JSON."
    )
    add = parser.add_argument
    add("model", type=path_of, metavar="MODEL", help=MODEL_HELP)
    add("--env", required=True, metavar="ID", help="environment")
    add("--n-skills", type=int, default=48, help="skills, one episode each (default: %(default)s)")
    add("--seed", type=int, nargs="+", default=[0], help="of skills and environment; the mean of several (default: 0)")
    add(
        "--cell-size",
        type=float,
        nargs="+",
        default=[1.0],
        help="edge of a cell, or one for each coordinate (default: 1)",
    )
    add("--columns", type=int, nargs="+", help="coordinates to measure, by number from 0 (default: all)")
    add("--n-envs", type=int, default=1, help="environments at once; changing it changes the starts (default: 1)")
    add(
        "--max-episode-steps",
        type=int,
        metavar="N",
        help="steps after which episodes are cut",
    )
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python")
    add("--out", type=path_of, metavar="DIR", help="folder for pictures, the table as CSV and the result")
    add("--video", type=int, default=0, metavar="N", help="also film N skills, into the folder of --out")
    add("--theme", choices=["light", "dark"], default="light", help="of the pictures (default: %(default)s)")
    add("--table", action="store_true", help="print a row for each skill on the standard error")
    add("--progress", action="store_true", help="show a progress bar on the standard error")
    add("--device", default="auto", help="PyTorch device (default: %(default)s)")
    add("--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code")
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
    trusted: bool = False,
    progress_bar: bool = False,
    max_episode_steps: int | None = None,
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
    :param trusted: unpickle what the files hold, which can run any code that they bring
    :param progress_bar: show a progress bar
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them
    :return: all metrics, and what they were measured with
    """
    check_count("--n-skills", n_skills)
    check_count("--n-envs", n_envs)
    _check_options(seeds, cell_size, columns, max_episode_steps)
    path = find_model(path)
    model, env = load_model(path, env_id, n_envs, env_kwargs=env_kwargs, device=device, trusted=trusted)
    prior, encode = require_prior(model), encoder_of(model)
    options: dict[str, Any] = {"cell_size": cell_size, "columns": columns}
    shown: dict[str, Any] = {"max_episode_steps": max_episode_steps, "progress_bar": progress_bar}
    try:
        skills = [draw_skills(prior, n_skills, seed) for seed in seeds]
        _check_places(env, **options)
        by_seed = [rollout_skills(model, env, z, seed=seed, **shown) for z, seed in zip(skills, seeds, strict=True)]
    finally:
        env.close()
    norm = constraint_norm_of(model)
    metrics = [skill_metrics(t, prior, encode, constraint_norm=norm, **options) for t in by_seed]
    result: dict[str, Any] = {name: _mean([m[name] for m in metrics]) for name in metrics[0]}
    result.setdefault("policy_state_coverage", None)
    if by_seed[0][0].tasks:
        result["tasks"] = achieved_tasks(by_seed[0])
    result |= {"n_skills": n_skills, "seed": seeds[0] if len(seeds) == 1 else list(seeds), "n_envs": n_envs}
    result |= {"env": env_id, "env_kwargs": env_kwargs or {}, "model": str(path), **options}
    result |= {"max_episode_steps": max_episode_steps, "num_timesteps": getattr(model, "num_timesteps", None)}
    if len(seeds) > 1:
        result["by_seed"] = metrics
    return Evaluation(result, skill_table(by_seed[0], prior, encode, **options), by_seed[0], model)


def _check_options(seeds: Sequence[int], cell_size: Any, columns: Any, max_episode_steps: int | None) -> None:
    """Refuse what cannot work before a model is loaded, by the names of the command."""
    for seed in seeds:
        check_seed("--seed", seed)
    if max_episode_steps is not None:
        check_count("--max-episode-steps", max_episode_steps)
    check_grid(cell_size, columns, names=("--cell-size", "--columns"))


def _check_places(env: VecEnv, cell_size: Any, columns: Any) -> None:
    """Refuse columns that an environment's places do not have before they are measured."""
    if columns is None and np.ndim(cell_size) == 0:
        return
    env.reset()
    place = env.unwrapped.reset_infos[0].get("coordinates")
    if place is not None:
        cells(np.atleast_2d(place), cell_size, columns)


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
        encode = encoder_of(evaluation.model)
        if encode is not None:
            written.append(out / f"phi.{ending}")
            plot_phi(trajectories, encode, written[-1], **style)
    return written


def check_renders(env_id: str, env_kwargs: dict[str, Any]) -> None:
    """
    Refuse to film an environment that has no pictures.

    :param env_id: id of the environment
    :param env_kwargs: its arguments
    :raises ValueError: if it does not name ``"rgb_array"`` among its render modes
    """
    env = make_env(env_id, env_kwargs=env_kwargs)
    modes = env.get_attr("metadata")[0].get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f'--video needs an environment with the render mode "rgb_array", got {env_id} with {modes}.')


def film(evaluation: Evaluation, n_skills: int, out: Path, trusted: bool = False) -> Path:
    """
    Film skills side by side, each labelled, as the demonstration does unless ``env_kwargs`` say otherwise.

    :param evaluation: what :func:`evaluate` returns
    :param n_skills: number of skills
    :param out: folder to write ``skills.mp4`` to
    :param trusted: unpickle what the model's files hold
    :return: the file
    """
    from sb3_metra.evaluation.video import film_skills

    choose_gl()
    result = evaluation.result
    env_kwargs = drawing_kwargs(result["env"], 320, 240) | result["env_kwargs"]
    model, env = load_model(Path(result["model"]), result["env"], env_kwargs=env_kwargs, trusted=trusted)
    try:
        for single in env.unwrapped.envs:  # type: ignore[attr-defined]
            leave_out_shadows(single)
            follow_body(single)
        skills = skills_to_show(model.skill_prior, n_skills)
        limit = result["max_episode_steps"]
        trajectories = rollout_skills(model, env, skills, frames=True, seed=0, max_episode_steps=limit)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # OpenGL fails in many ways
        raise OSError(f"--video: drawing failed ({error or type(error).__name__}): {RENDERING_HELP}.") from error
    else:
        fps = frames_per_second_of(env) or 20.0
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
