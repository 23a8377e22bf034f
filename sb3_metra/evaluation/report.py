"""The skill explorer: what a model's skills do, recorded and written as one web page that needs nothing else."""

from __future__ import annotations

import datetime
import inspect
import platform
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_metra.common.skills import SkillPrior
from sb3_metra.evaluation.report_page import render_page
from sb3_metra.evaluation.report_page.curves import describe_curves
from sb3_metra.evaluation.report_page.gather import gather
from sb3_metra.evaluation.report_page.recording import record, record_films, spread_skills, through_phi
from sb3_metra.evaluation.rollout import SkillPredictor, SkillTrajectory

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

_PACKAGES = ("sb3-metra", "stable-baselines3", "torch", "gymnasium", "numpy", "mujoco", "dm_control")
_TEXT_BYTES = 1_500_000  # of a page without its films, at most about
_NO_COORDINATES = (
    'The environment reports no info["coordinates"], so the page has no map of places and no coverage: what it draws '
    "is φ alone."
)


class SkillModel(SkillPredictor, Protocol):
    """What a report needs of a model: SB3's ``predict`` with the skill as its state, phi, and the prior p(z)."""

    @property
    def skill_prior(self) -> SkillPrior:
        """p(z)."""

    def encode(self, observation: Any) -> np.ndarray:
        """phi of n observations, (n, dim)."""


class Report(NamedTuple):
    """
    A page that was written.

    :param path: the file
    :param notes: sentences about what the page lacks, which stand on it, too
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
    unit: str = "",
    film: bool = True,
    max_megabytes: float = 15.0,
    progress_bar: bool = False,
) -> Report:
    """
    Write the skill explorer of a model: one HTML file with a dial for the skill, where each skill goes in the world and
    in phi, a film of each where the environment can be drawn, training curves, and the model's settings.

    The same model, environment, seed and day give the same page.

    :param model: an algorithm of this package, or whatever has ``predict``, ``encode`` and ``skill_prior``
    :param env: an environment, or a vectorised one
    :param path: the file to write
    :param skills: the skills to record, (n, skill_dim); ``None``: spread evenly
    :param n_skills: how many to spread; ``None``: 24 on a circle, 32 in more dimensions, both ends of a line, at most
        48 of discrete ones
    :param measured: trajectories to take the numbers from, as ``rollout_skills`` returns them; ``None``: of 48 skills
        drawn from p(z), as ``policy_state_coverage`` measures them
    :param seed: of skills and of the environments' resets
    :param curves: what :func:`~sb3_metra.evaluation.report_page.curves.read_curves` returns
    :param about: what else to say, by name, such as the command
    :param trained_with: versions of packages that the model was trained with, by name
    :param unit: of the coordinates, such as ``"m"``
    :param film: film the skills, where the environment was made with ``render_mode="rgb_array"``
    :param max_megabytes: largest size of the file, in millions of bytes; films are made smaller to stay below it
    :param progress_bar: show one while skills are recorded, where tqdm is installed
    :return: the file, its size, and what it lacks
    :raises ValueError: for arguments that cannot work, each named
    """
    if n_skills is not None and n_skills < 1:
        raise ValueError(f"n_skills must be at least 1, got {n_skills}")
    if not max_megabytes > 0:
        raise ValueError(f"max_megabytes must be greater than 0, got {max_megabytes}")
    if measured is not None and not measured:
        raise ValueError("measured must hold at least one trajectory, got none")
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    prior = model.skill_prior
    dial = spread_skills(prior, n_skills, seed) if skills is None else np.atleast_2d(prior.validate(skills))
    n_measured = 48 if measured is None else 0
    with _Progress(n_measured + len(dial), progress_bar) as progress:
        if measured is None:
            drawn = prior.evaluation_skills(n_measured, np.random.default_rng(seed))
            seen = record(model, model.encode, vec_env, drawn, seed, progress.tick)
        else:
            seen = [through_phi(trajectory, model.encode) for trajectory in measured]
        recorded, films, notes = record_films(
            model,
            model.encode,
            vec_env,
            dial,
            seed,
            progress.tick,
            film=film,
            episode_length=max(len(trajectory) for trajectory in seen),
            max_bytes=1e6 * max_megabytes - _TEXT_BYTES,
        )
    has_place = recorded[0].coordinates.ndim == 2
    env_id = _env_id(vec_env)
    data = {
        "title": env_id,
        "algorithm": type(model).__name__,
        "steps": getattr(model, "num_timesteps", None),
        "date": datetime.date.today().isoformat(),
        "fps": vec_env.get_attr("metadata")[0].get("render_fps"),
        **gather(prior, recorded, seen, films, unit),
        "curves": describe_curves(curves or {}),
        "settings": describe_settings(model),
        "versions": _versions(trained_with or {}),
        "about": {"environment": env_id, **(about or {}), "seed of the recordings": seed},
        "notes": notes if has_place else [_NO_COORDINATES, *notes],
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.write_bytes(render_page(data).encode("utf-8"))
    return Report(path, data["notes"], size)


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
    """For each package its version in training and now, empty where that is not known."""
    now = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            now[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {name: [trained_with.get(name, ""), now.get(name, "")] for name in {**now, **trained_with}}


def _env_id(env: VecEnv) -> str:
    """The registered name of an environment, or that of its class."""
    spec = env.get_attr("spec")[0]
    return spec.id if spec is not None else type(env.get_attr("unwrapped")[0]).__name__


class _Progress:
    """A progress bar, or nothing."""

    def __init__(self, total: int, show: bool) -> None:
        self._bar = tqdm(total=total, unit="skill", desc="recording") if show and tqdm is not None else None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tick(self, n: int) -> None:
        """Count skills that are recorded."""
        if self._bar is not None:
            self._bar.update(n)
