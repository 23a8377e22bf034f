"""
The shipped settings of every algorithm and environment, in rl-zoo3's YAML; reading them needs no rl_zoo3.

``metra.yml`` holds each environment's values whole. Another method's file holds what differs: a block ``every`` for all
environments, and a block for each environment that needs one. There ``null`` removes one of METRA's arguments.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

DEFAULT_ENTRY = "default"
"""The entry for every environment that has none of its own; rl_zoo3 knows it by this name."""

EVERY_ENTRY = "every"
"""The entry of a method's file that changes METRA's values for every environment."""


def settings_path(algorithm: str = "metra", paper: bool = False) -> Path:
    """
    A YAML file of an algorithm's settings as rl_zoo3 reads it. If the shipped one holds only what differs from METRA's,
    this is a whole one in a temporary folder that is deleted when the process ends.

    :param algorithm: name of the algorithm, e.g. ``"metra"``
    :param paper: the authors' settings instead of the best ones measured
    :return: path of the YAML file
    :raises ValueError: if no such file is shipped
    """
    path = _shipped(algorithm, paper)
    return _write_whole(path) if EVERY_ENTRY in _read(path) else path


def load_settings(env_id: str, algorithm: str = "metra", paper: bool = False) -> dict[str, Any]:
    """
    Read one environment's settings.

    :param env_id: id of the environment; without an entry of its own, the entry ``default``
    :param algorithm: name of the algorithm, e.g. ``"metra"``
    :param paper: the authors' settings instead of the best ones measured
    :return: rl-zoo3's keys (``n_envs``, ``n_timesteps``, ``env_kwargs``, ...) and the algorithm's arguments
    :raises ValueError: if no such settings are shipped
    """
    entries = _whole(_shipped(algorithm, paper))
    settings: dict[str, Any] = entries.get(env_id, entries[DEFAULT_ENTRY])
    return settings


def _shipped(algorithm: str, paper: bool) -> Path:
    name = algorithm.lower()
    path = Path(__file__).with_name(f"{name}_paper.yml" if paper else f"{name}.yml")
    if not path.is_file():
        shipped = sorted(file.stem for file in path.parent.glob("*.yml"))
        raise ValueError(f"algorithm must name shipped settings, one of {shipped}, got {path.stem!r}.")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            'Reading the shipped settings needs PyYAML: install it with `pip install "sb3-metra[zoo]"`.'
        ) from error
    entries: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return entries


def _whole(path: Path) -> dict[str, Any]:
    """All entries of a file, METRA's values included if the file counts on them."""
    own = _read(path)
    if EVERY_ENTRY not in own:
        return own
    every = own.pop(EVERY_ENTRY)
    metra = _read(path.with_name("metra.yml"))
    merged = {env_id: values | every | own.get(env_id, {}) for env_id, values in metra.items()}
    return {env_id: {key: x for key, x in values.items() if x is not None} for env_id, values in merged.items()}


@cache
def _write_whole(path: Path) -> Path:
    import yaml

    folder = tempfile.mkdtemp(prefix="sb3_metra_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    whole = Path(folder) / path.name
    whole.write_text(yaml.safe_dump(_whole(path), sort_keys=False), encoding="utf-8")
    return whole


__all__ = ["DEFAULT_ENTRY", "load_settings", "settings_path"]
