"""``sb3-metra report``: the skill explorer, one web page about a saved model."""

import argparse
import json
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import tqdm

from sb3_metra.commands.loading import find_model, load_model, parse_keyword_arguments, registered
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.inputs import check_count, check_number, check_seed, path_of
from sb3_metra.envs.rendering import choose_gl
from sb3_metra.evaluation.report import Report, write_report
from sb3_metra.evaluation.runs import read_curves
from sb3_metra.headless import draw_for_films, drawing_kwargs, follow_body
from sb3_metra.pretrained import FOLDER


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra report", description="Write a web page on which the skills of a saved model can be explored."
    )
    parser.add_argument("model", type=path_of, metavar="RUN_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("--env", required=True, metavar="ID", help="environment")
    parser.add_argument(
        "--out",
        type=path_of,
        metavar="FILE",
        help="the page (default: skills.html beside the model; with --pretrained, in the current folder)",
    )
    parser.add_argument("--n-skills", type=int, metavar="N", help="skills to record (default: by the kind of skills)")
    parser.add_argument("--seed", type=int, default=0, help="seed of skills and environment (default: %(default)s)")
    parser.add_argument("--no-video", action="store_true", help="do not draw the environment")
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=15.0,
        metavar="MB",
        help="largest size of the page (default: %(default)s)",
    )
    parser.add_argument(
        "--max-episode-steps",
        type=int,
        metavar="N",
        help="steps after which episodes are cut",
    )
    parser.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python"
    )
    parser.add_argument("--device", default="auto", help="PyTorch device (default: %(default)s)")
    parser.add_argument(
        "--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code"
    )
    options = parser.parse_args(arguments)
    for name, count in (("--n-skills", options.n_skills), ("--max-episode-steps", options.max_episode_steps)):
        if count is not None:
            check_count(name, count)
    check_number("--max-megabytes", options.max_megabytes)
    check_seed("--seed", options.seed)
    command = shlex.join(["sb3-metra", "report", *arguments])
    report = report_model(
        options.model,
        options.env,
        options.out,
        n_skills=options.n_skills,
        seed=options.seed,
        video=not options.no_video,
        max_megabytes=options.max_megabytes,
        env_kwargs=parse_keyword_arguments(options.env_kwargs),
        device=options.device,
        trusted=options.trust,
        command=command,
        max_episode_steps=options.max_episode_steps,
    )
    for note in report.notes:
        print(note, file=sys.stderr)
    print(f"{report.path} ({report.size / 1e6:.1f} MB): open it in any browser.")


def report_model(
    path: Path,
    env_id: str,
    out: Path | None = None,
    *,
    n_skills: int | None = None,
    seed: int = 0,
    video: bool = True,
    max_megabytes: float = 15.0,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    trusted: bool = False,
    command: str = "",
    max_episode_steps: int | None = None,
) -> Report:
    """
    Write the skill explorer of a saved model.

    :param path: the saved model, or a run's folder
    :param env_id: id of the environment
    :param out: the page; ``None``: see :func:`default_page`
    :param n_skills: number of skills to record; ``None``: by the kind of skills
    :param seed: seed of skills and environment
    :param video: film the skills, if the environment can be drawn
    :param max_megabytes: largest size of the page
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :param trusted: unpickle what the files hold, which can run any code that they bring
    :param command: what to name as the command on the page
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them
    :return: what was written
    """
    choose_gl()
    path = find_model(path)
    env_kwargs = env_kwargs or {}
    drawing = drawing_kwargs(registered(env_id)) if video else {}
    model, env = load_model(path, env_id, env_kwargs={**drawing, **env_kwargs}, device=device, trusted=trusted)
    try:
        for inner in getattr(env.unwrapped, "envs", []):
            draw_for_films(inner)
            follow_body(inner)
        about = {"environment's arguments": env_kwargs, "model": str(path), "command": command}
        return write_report(
            model,
            env,
            default_page(path) if out is None else out,
            n_skills=n_skills,
            seed=seed,
            curves=read_curves(path.parent),
            about={name: value for name, value in about.items() if value},
            trained_with=saved_versions(path),
            film=video,
            max_episode_steps=max_episode_steps,
            max_megabytes=max_megabytes,
            progress_bar=tqdm is not None,
        )
    finally:
        env.close()


def default_page(path: Path) -> Path:
    """
    ``skills.html`` beside a model; in the current folder if the model comes with the package.

    :param path: the saved model
    """
    folder = Path() if path.resolve().is_relative_to(FOLDER) else path.parent
    return folder / "skills.html"


def saved_versions(path: Path) -> dict[str, str]:
    """
    Versions of the packages that wrote a model, of which SB3 keeps a list, and an export another.

    :param path: the saved model, or the folder of an export
    :return: by name, as on the package index
    """
    if path.is_dir():
        versions = json.loads((path / "skills.json").read_text(encoding="utf-8")).get("versions", {})
        return {name: version for name, version in versions.items() if version is not None}
    names = {"Python": "Python", "Stable-Baselines3": "stable-baselines3", "PyTorch": "torch", "Numpy": "numpy"}
    names["Gymnasium"] = "gymnasium"
    with zipfile.ZipFile(path) as archive:
        if "system_info.txt" not in archive.namelist():
            return {}
        lines = archive.read("system_info.txt").decode("utf-8", errors="replace").splitlines()
    entries = (line.removeprefix("- ").partition(": ") for line in lines)
    return {names[name]: value.strip() for name, _, value in entries if name in names}
