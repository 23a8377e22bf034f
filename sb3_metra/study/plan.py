"""A study's file: methods x environments x seeds x changes, checked before anything runs."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th

from sb3_metra.collectors.settings import read_collectors
from sb3_metra.common.arguments import FLAG, POSITIVE, Check, check_names, check_table, integer, number, shorten
from sb3_metra.common.collectors import check_others
from sb3_metra.common.constructor import ALGORITHM
from sb3_metra.envs import find_spec
from sb3_metra.hyperparams import load_settings
from sb3_metra.study.trial import METHODS, Trial, model_arguments
from sb3_metra.zoo_files import read_value
from sb3_metra.zoo_input import read_numbers

SHIPPED = Path(__file__).parent

_LABEL = re.compile(r"[\w.=+-]+")


def _device(value: Any) -> str:
    try:
        return str(th.device(value))
    except RuntimeError as error:
        raise ValueError from error


def _gpus(value: Any) -> float:
    gpus: float = number(0).read(value)
    if gpus > 1 and not gpus.is_integer():
        raise ValueError
    return gpus


_NAMED = Check("a dictionary of arguments by name", lambda value: _mapping(value or {}))
_OF_EVALUATION = {
    "eval_freq": integer(1),
    "eval_episodes": integer(1),
    "cell_size": POSITIVE,
    "eval_env_kwargs": _NAMED,
}
_OF_RUNS = {
    "cpus": POSITIVE,
    "gpus": Check("a number between 0 and 1, or a whole number of at least 2", _gpus),
    "device": Check("a device of PyTorch, such as cuda", _device),
    "retries": integer(0),
    "checkpoint_minutes": POSITIVE,
    "paper": FLAG,
}
_KEYS = (
    {"methods", "environments", "seeds", "changes", "settings", "scheduler"} | _OF_EVALUATION.keys() | _OF_RUNS.keys()
)

SCHEDULERS = ("asha", "median")


@dataclass(frozen=True)
class Study:
    """
    What a study's file says.

    :param name: of the file
    :param trials: the trials by name
    :param cpus: CPUs of a trial
    :param gpus: GPUs of a trial, also a part of one
    :param device: of PyTorch
    :param retries: how often a failed trial is tried again
    :param checkpoint_minutes: minutes between two checkpoints of a trial
    :param scheduler: ``name``, one of Tune's schedulers, and its arguments; empty: all trials run to their end
    """

    name: str
    trials: dict[str, Trial]
    cpus: float = 1.0
    gpus: float = 0.0
    device: str = "cpu"
    retries: int = 1
    checkpoint_minutes: float = 5.0
    scheduler: Mapping[str, Any] | None = None

    def check_without_ray(self, option: str) -> None:
        """
        Refuse what only Ray can run.

        :param option: what was asked for instead
        :raises ValueError: if the study has a scheduler or collectors
        """
        parts = {
            "scheduler": self.scheduler is not None,
            "collectors": any("collectors" in trial.settings for trial in self.trials.values()),
        }
        for part in (part for part, asked in parts.items() if asked):
            raise ValueError(f"{part} must run on Ray: leave out {option}, or take {part} out of the study")

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        content = {name: x for name, x in vars(self).items() if name != "trials"}
        return content | {"trials": {name: asdict(trial) for name, trial in self.trials.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Study:
        """
        The study that :meth:`as_json` wrote.

        :param content: what it wrote
        """
        known = {name: content[name] for name in cls.__dataclass_fields__}
        return cls(**known | {"trials": {name: Trial(**x) for name, x in content["trials"].items()}})


def find_study(path: str | Path) -> Path:
    """
    A study's file, or the shipped one of that name.

    :param path: a file, or a name such as ``arena``
    :raises ValueError: if there is neither
    """
    path = Path(path)
    shipped = SHIPPED / f"{path.stem}.yml"
    if path.is_file():
        return path
    if len(path.parts) == 1 and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yml")))
    raise ValueError(f"STUDY must be a YAML file or a shipped study ({names}), got {str(path)!r}, which does not exist")


def read_study(path: str | Path) -> Study:
    """
    Read and check a study's file.

    :param path: a YAML file, or the name of a shipped one
    :raises ValueError: if the file is wrong, in one sentence
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError('Reading a study needs PyYAML: pip install "sb3-metra[distributed]"') from error
    path = find_study(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"STUDY must be a YAML file, got {str(path)!r}, which cannot be read: {error}") from error
    try:
        return make_study(path.stem, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def make_study(name: str, content: Any) -> Study:
    """
    A study from what its file says.

    :param name: of the study
    :param content: the file's values
    :raises ValueError: for the first that is wrong
    """
    content = read_numbers(_mapping(content, "a study"))
    _check_keys("a study", content, _KEYS)
    for key in ("methods", "environments", "seeds"):
        if not content.get(key):
            raise ValueError(f"a study must name its {key}, got {content.get(key)!r}")
    of_runs = check_table(_OF_RUNS, {key: content[key] for key in _OF_RUNS if key in content})
    paper = of_runs.pop("paper", False)
    trials: dict[str, Trial] = {}
    for trial in _trials(content, paper):
        if trial.name in trials:
            raise ValueError(f"a study must name each trial once, got {trial.name} twice")
        trials[trial.name] = trial
    of_runs.setdefault("device", "cuda" if of_runs.get("gpus") else "cpu")
    return Study(name, trials, scheduler=_scheduler(content.get("scheduler")), **of_runs)


def _trials(content: Mapping[str, Any], paper: bool) -> Iterator[Trial]:
    methods = _blocks("methods", content["methods"])
    environments = _blocks("environments", content["environments"])
    changes = _blocks("changes", content.get("changes") or {"": {}})
    for key in methods:
        _check_choice("methods", key, METHODS)
    for key in environments:
        _check_environment(key)
    for key in changes:
        if key and not _LABEL.fullmatch(key):
            raise ValueError(f"changes must have names of letters, digits and . = + - _, got {key!r}")
    common = _mapping(content.get("settings") or {}, "settings")
    seeds = _seeds(content["seeds"])
    of_all = {key: content[key] for key in _OF_EVALUATION if key in content}
    shipped = {pair: load_settings(*pair, paper) for pair in itertools.product(environments, methods)}
    for env, method, change in itertools.product(environments, methods, changes):
        own = of_all | {key: x for key, x in environments[env].items() if key in _OF_EVALUATION}
        settings = shipped[env, method]
        own_settings = {key: x for key, x in environments[env].items() if key not in _OF_EVALUATION}
        for block in (common, own_settings, methods[method], changes[change]):
            settings = {key: x for key, x in (settings | _evaluated(block)).items() if x is not None}
        where = f"in {' / '.join(part for part in (env, method, change) if part)}"
        settings = _check_settings(settings, method, where)
        steps = settings.pop("n_timesteps")
        evaluation = check_table(_OF_EVALUATION, own, where)
        for seed in seeds:
            yield Trial(method, env, seed, steps, settings, change, **evaluation)


def _check_settings(settings: dict[str, Any], method: str, where: str) -> dict[str, Any]:
    """Settings whose names and values an algorithm takes; what depends on the environment shows in the trial."""
    algorithm = METHODS[method]
    try:
        check_names("settings", model_arguments(settings), algorithm, {"env", "seed", "device"})
    except ValueError as error:
        raise ValueError(f"{error} {where}") from error
    known = {"n_envs": integer(1), "n_timesteps": integer(1), "env_kwargs": _NAMED}
    settings = check_table(known, settings, where)
    check_table(ALGORITHM, model_arguments(settings), where)
    if "collectors" in settings:
        check_others(settings, where)
        settings["collectors"] = read_collectors(settings["collectors"], where, {"address"})
    if "n_timesteps" not in settings:
        raise ValueError(f"settings must hold n_timesteps {where}, got {', '.join(settings)}")
    return settings


def _evaluated(block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which strings such as ``dict(net_arch=[64])`` are what rl-zoo3 evaluates them to."""
    result = {}
    for key, value in block.items():
        if isinstance(value, str) and (key.endswith("_kwargs") or key in ("train_freq", "collectors")):
            try:
                value = read_value(value)
            except (ValueError, SyntaxError):
                raise ValueError(f"{key} must be a dictionary, or words such as dict(a=1), got {value!r}") from None
        result[key] = value
    return result


def _scheduler(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    block = dict(_mapping({"name": value} if isinstance(value, str) else value, "scheduler"))
    _check_choice("scheduler", block.get("name"), SCHEDULERS)
    return block


def _seeds(value: Any) -> list[int]:
    read = integer(0, 2**32 - 1)
    if not isinstance(value, list) or len(set(map(str, value))) != len(value):
        raise ValueError(f"seeds must be a list of different integers, such as [0, 1, 2], got {shorten(value)}")
    return [read("a seed", seed) for seed in value]


def _blocks(key: str, value: Any) -> dict[str, dict[str, Any]]:
    """A list of names, or settings by name."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise ValueError(f"{key} must name each once, got {shorten(value)}")
        return {name: {} for name in value}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} must be a list of names, or settings by name, got {shorten(value)}")
    return {name: dict(_mapping(block or {}, f"{key}: {name}")) for name, block in value.items()}


def _mapping(value: Any, name: str = "it") -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be a dictionary by name, got {shorten(value)}")
    return value


def _check_keys(name: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f": did you mean {close[0]!r}?" if close else f": it has {', '.join(sorted(known))}"
            raise ValueError(f"{name} must hold known keys only, got {key!r}{hint}")


def _check_choice(name: str, value: Any, known: Collection[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} must be of {', '.join(known)}, got {value!r}{hint}")


def _check_environment(env: str) -> None:
    if env.startswith("dmc/"):
        if env.count("-") != 1:
            raise ValueError(f"environments must name a task of dm_control as dmc/DOMAIN-TASK, got {env!r}")
        return
    try:
        find_spec(env)
    except (gym.error.Error, ImportError, ValueError) as error:
        raise ValueError(f"environments must be registered, got {env!r}: {error}") from error
