"""The skill explorer: what a model's skills do, recorded and written as one web page that needs nothing else."""

from __future__ import annotations

import datetime
import inspect
import platform
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.files import atomic_path
from sb3_metra.common.inputs import (
    check_count,
    check_flag,
    check_folder,
    check_number,
    check_path,
    check_seed,
    check_text,
)
from sb3_metra.common.skill_model import SkillModel, as_vec_env, encoder_of, require_prior
from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.coverage import draw_skills
from sb3_metra.evaluation.metadata import env_id_of, frames_per_second_of, unit_of
from sb3_metra.evaluation.report_page import render_page
from sb3_metra.evaluation.report_page.curves import check_curves, describe_curves
from sb3_metra.evaluation.report_page.gather import gather
from sb3_metra.evaluation.report_page.recording import Recorder, through_phi
from sb3_metra.evaluation.rollout import Progress, SkillTrajectory, check_skills, check_trajectories, has_coordinates
from sb3_metra.evaluation.skills import skills_to_show

_PACKAGES = ("sb3-metra", "stable-baselines3", "torch", "gymnasium", "numpy", "mujoco", "dm_control")
_TEXT_BYTES = 1_500_000  # of a page without its films, at most about
_NO_COORDINATES = (
    'The environment reports no info["coordinates"], so the page has no map of places and no coverage: what it draws '
    "is φ alone."
)
_NO_PHI = "The model learns no φ, so the page draws places alone."


class Report(NamedTuple):
    """
    A page that was written.

    :param path: the file
    :param notes: sentences about what the page lacks; the page shows them, too
    :param size: bytes
    """

    path: Path
    notes: list[str]
    size: int


def write_report(
    model: SkillModel,
    env: VecEnv | gym.Env,
    path: str | Path,
    *,
    skills: np.ndarray | None = None,
    n_skills: int | None = None,
    measured: Sequence[SkillTrajectory] | None = None,
    seed: int = 0,
    curves: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    about: Mapping[str, Any] | None = None,
    trained_with: Mapping[str, str] | None = None,
    unit: str | None = None,
    film: bool = True,
    max_episode_steps: int | None = None,
    max_megabytes: float = 15.0,
    progress_bar: bool = False,
) -> Report:
    """
    Write the skill explorer of a model: one HTML file with a dial for the skill, where each skill goes in the world and
    in phi, a film of each if the environment can be drawn, training curves, and the model's settings.

    The same model, environment, seed and day give the same page.

    :param model: an algorithm of this package, or anything with ``predict`` and ``skill_prior``. The page shows phi if
        it has ``encode``
    :param env: an environment, or a vectorised one
    :param path: the file to write
    :param skills: the skills to record, (n, skill_dim); ``None``: spread evenly
    :param n_skills: number of skills to spread; ``None``: 24 on a circle, 32 in space, both ends of a line, at most
        48 discrete ones
    :param measured: trajectories to take the numbers from, as ``rollout_skills`` returns them; ``None``: of 48 skills
        drawn from p(z), as ``policy_state_coverage`` measures them
    :param seed: of skills and of the environments' resets
    :param curves: what :func:`~sb3_metra.evaluation.runs.read_curves` returns
    :param about: further entries by name, such as the command
    :param trained_with: versions of packages that the model was trained with, by name
    :param unit: of the coordinates, such as ``"m"``; ``None``: what the environment's metadata say
    :param film: film the skills, if the environment was made with ``render_mode="rgb_array"``
    :param max_episode_steps: as for :func:`~sb3_metra.evaluation.rollout_skills`
    :param max_megabytes: largest size of the file, in millions of bytes; films are made smaller to stay below it
    :param progress_bar: show one while skills are recorded; it needs tqdm
    :return: the file, its size, and what it lacks
    :raises ValueError: if an argument is wrong; the message names it
    """
    if n_skills is not None:
        check_count("n_skills", n_skills)
    check_number("max_megabytes", max_megabytes)
    check_flag("film", film)
    check_flag("progress_bar", progress_bar)
    if unit is not None:
        check_text("unit", unit)
    described = describe_curves(check_curves(curves or {}))
    check_seed("seed", seed)
    if measured is not None:
        check_trajectories(measured, "measured")
    path, vec_env, prior = _page(path), as_vec_env(env), require_prior(model)
    dial = skills_to_show(prior, n_skills, seed) if skills is None else check_skills(model, skills)
    n_measured = 48 if measured is None else 0
    with Progress(n_measured + len(dial), "skill", progress_bar) as progress:
        recorder = Recorder(model, vec_env, seed, progress.update, max_episode_steps)
        if measured is None:
            seen = recorder.record(draw_skills(prior, n_measured, seed))
        else:
            seen = [through_phi(trajectory, encoder_of(model)) for trajectory in measured]
        recorded, films, notes = recorder.film(
            dial,
            wanted=film,
            episode_length=max(len(trajectory) for trajectory in seen),
            max_bytes=1e6 * max_megabytes - _TEXT_BYTES,
        )
    missing = _missing(has_coordinates(recorded), encoder_of(model) is not None)
    env_id = env_id_of(vec_env)
    data = {
        "title": env_id,
        "algorithm": type(model).__name__,
        "steps": getattr(model, "num_timesteps", None),
        "date": datetime.date.today().isoformat(),
        "fps": frames_per_second_of(vec_env),
        **gather(prior, recorded, seen, films, unit_of(vec_env) if unit is None else unit),
        "curves": described,
        "settings": describe_settings(model),
        "versions": _versions(trained_with or {}),
        "about": {"environment": env_id, **(about or {}), "seed of the recordings": seed},
        "notes": missing + notes,
    }
    with atomic_path(path) as aside:
        size = aside.write_bytes(render_page(data).encode("utf-8"))
    return Report(path, data["notes"], size)


def _page(path: str | Path) -> Path:
    """The file to write, in a folder that can be written to, before anything is recorded."""
    page = check_path("path", path)
    if page.is_dir():
        raise ValueError(f"path must be a file to write, such as skills.html, got the folder {str(page)!r}")
    check_folder("the folder of path", page.parent)
    return page


def _missing(places: bool, phi: bool) -> list[str]:
    """What the page does not show, in sentences."""
    if not places and not phi:
        raise ValueError(
            'env must report info["coordinates"], or model have a method encode, for a page to show, got neither'
        )
    return [note for note, there in ((_NO_COORDINATES, places), (_NO_PHI, phi)) if not there]


def describe_settings(model: Any) -> dict[str, str]:
    """
    A model's arguments, as its constructor and those of its base classes name them.

    :param model: an algorithm
    :return: each argument's name and value, in words; what a model does not keep is left out
    """
    settings = {}
    if hasattr(model, "policy_class"):
        settings["policy"] = model.policy_class.__name__
    if hasattr(model, "skill_prior"):
        settings["skill_prior"] = str(model.skill_prior)
    for cls in type(model).__mro__:
        if "__init__" not in vars(cls) or not cls.__module__.startswith(type(model).__module__.split(".")[0]):
            continue
        for name, parameter in inspect.signature(vars(cls)["__init__"]).parameters.items():
            plain = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if plain and name not in ("self", "policy", "env") and name[0] != "_" and hasattr(model, name):
                settings.setdefault(name, _in_words(getattr(model, name)))
    return settings


def _in_words(value: Any) -> str:
    """A value for people to read, the same in every process."""
    if isinstance(value, dict):
        parts = [f"{key}={_in_words(inner)}" for key, inner in value.items() if not isinstance(inner, SkillPrior)]
        return ", ".join(parts) or "–"  # noqa: RUF001
    if isinstance(value, Enum):
        return str(value.value)
    if hasattr(value, "_fields"):  # a named tuple, such as train_freq
        return " ".join(_in_words(inner) for inner in value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_in_words(inner) for inner in value)}]"
    if isinstance(value, bool | int | float | str | None):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def _versions(trained_with: Mapping[str, str]) -> dict[str, list[str]]:
    """For each package its version in training and now, empty if unknown."""
    now = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            now[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {name: [trained_with.get(name, ""), now.get(name, "")] for name in {**now, **trained_with}}
