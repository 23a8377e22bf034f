"""Checks of what rl_zoo3 is given: words and files of settings that it would misread, or fail on much later."""

import argparse
import ast
import builtins
import importlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.arguments import Check, check_names, check_table, choice, instance, integer, number, optional
from sb3_metra.common.inputs import check_count, check_number
from sb3_metra.zoo_files import read_value

_SMALLEST = {"--eval-episodes": 1, "--n-eval-envs": 1, "--n-envs": 1, "--n-trials": 1, "--n-jobs": -1, "--seed": -1}
"""Of rl_zoo3's numbers, the smallest that works; a seed of -1 is a random one."""
_KEYWORDS = (("-params", "--hyperparams"), ("--env-kwargs",), ("--eval-env-kwargs",))
_POWER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


_OPTIONS = ("env", "seed", "device", "verbose", "tensorboard_log")


def _schedule(value: Any) -> Any:
    if isinstance(value, str):
        kind, initial = value.split("_")
        if kind != "lin":
            raise ValueError
        number(0).read(float(initial))
    return value


def _normalize(value: Any) -> Any:
    if not isinstance(value, bool):
        named = read_value(value) if isinstance(value, str) else value
        check_names("normalize", dict(named), VecNormalize, {"venv"})
    return value


def _names(value: Any) -> Any:
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        name = next(iter(entry)) if isinstance(entry, dict) else entry
        module, _, last = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), last)
        except ImportError as error:
            raise ValueError from error
    return value


_IMPORTED = Check("the full name of what can be imported, a list of such, or {name: arguments}", _names)
#: What rl_zoo3 uses itself.
_SETTINGS: dict[str, Check] = {
    "policy": instance("a name such as MlpPolicy", str, type),
    "learning_rate": Check('a number, or a string such as "lin_1e-3"', _schedule),
    "normalize": Check('True, False, or arguments of VecNormalize such as "dict(norm_obs=True)"', _normalize),
    "frame_stack": optional(integer(1)),
    "noise_type": optional(choice("normal", "ornstein-uhlenbeck")),
    "noise_std": optional(number(0)),
    "env_wrapper": _IMPORTED,
    "vec_env_wrapper": _IMPORTED,
    "callback": _IMPORTED,
}


def check_words(arguments: Sequence[str], names: Collection[str]) -> str:
    """
    Refuse words that rl_zoo3 would take for its defaults, or cannot evaluate.

    :param arguments: for one of rl_zoo3's scripts
    :param names: that values may use, beside Python's own
    :return: the device that is asked for
    :raises ValueError: for the first wrong word
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--n-timesteps", type=int)
    parser.add_argument("--device", default="auto")
    for name in _SMALLEST:
        parser.add_argument(name, type=int)
    for options in _KEYWORDS:
        parser.add_argument(*options, nargs="+", default=[])
    known, _ = parser.parse_known_args(arguments)
    if known.n_timesteps not in (None, -1):
        check_count("-n", known.n_timesteps)
    for name, low in _SMALLEST.items():
        if (value := _value(known, name)) is not None:
            check_count(name, value, low)
    for *_, name in _KEYWORDS:
        for word in _value(known, name):
            _check_keyword(name, word, names)
    return known.device


def _value(options: argparse.Namespace, name: str) -> Any:
    return getattr(options, name[2:].replace("-", "_"))


def _check_keyword(name: str, word: str, names: Collection[str]) -> None:
    """Refuse what rl_zoo3 cannot evaluate as ``KEY:VALUE``."""
    key, separator, value = word.partition(":")
    try:
        tree = ast.parse(value.strip(), mode="eval")
    except SyntaxError:
        tree = None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree is not None else set()
    if not (key and separator and tree is not None and used <= {*vars(builtins), *names}):
        raise ValueError(f"{name} must be KEY:VALUE with a value in Python, such as n_envs:8, got {word!r}")


def check_settings_file(config: str) -> None:
    """
    Refuse a file of settings that holds none.

    :param config: path of a YAML file, or what else rl_zoo3 takes
    :raises ValueError: if the file is no YAML, empty, or holds something else than settings by environment
    """
    if not config.endswith((".yml", ".yaml")):
        return
    try:
        entries = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--conf-file must be a YAML file, got {config!r}, which cannot be read: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"--conf-file must hold settings by environment, got {config!r}, which holds {entries!r}")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not entry:
            raise ValueError(f"--conf-file must hold settings for {name}, got {config!r}, which holds {entry!r} there")


def check_settings(settings: dict[str, Any], n_timesteps: float) -> dict[str, Any]:
    """
    Settings as rl_zoo3 can use them: with numbers that are numbers.

    :param settings: of one environment
    :param n_timesteps: what holds if they name none
    :raises ValueError: for what rl_zoo3 itself uses and cannot
    """
    settings = check_table(_SETTINGS, read_numbers(settings))
    for name in _OPTIONS:
        if name in settings:
            raise ValueError(f"{name} must be given as an option of the command, got {settings[name]!r} as a setting")
    if settings.get("noise_type") is not None and "noise_std" not in settings:
        raise ValueError(f"noise_std must be given with noise_type, got none and {settings['noise_type']!r}")
    check_count("n_envs", settings.get("n_envs", 1))
    check_number("n_timesteps", settings.setdefault("n_timesteps", n_timesteps))
    return settings


def read_numbers(value: Any) -> Any:
    """
    Settings with numbers in the place of strings that are written as powers of ten: YAML takes 1e-3 for a string.

    :param value: settings, or a part of them
    """
    if isinstance(value, dict):
        return type(value)((key, read_numbers(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return [read_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value
