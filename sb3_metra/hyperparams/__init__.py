"""The shipped settings of every algorithm and environment, in rl-zoo3's YAML; reading them needs no rl_zoo3."""

from pathlib import Path
from typing import Any

DEFAULT_ENTRY = "default"
"""The entry for every environment that has none of its own; rl_zoo3 knows it by this name."""


def settings_path(algo: str = "metra", paper: bool = False) -> Path:
    """
    Where an algorithm's settings are.

    :param algo: name of the algorithm, e.g. ``"metra"``
    :param paper: the authors' settings instead of the best ones measured
    :return: path of the YAML file
    :raises ValueError: where no such file is shipped
    """
    path = Path(__file__).with_name(f"{algo}_paper.yml" if paper else f"{algo}.yml")
    if not path.is_file():
        shipped = sorted(file.stem for file in path.parent.glob("*.yml"))
        raise ValueError(f"algo must name shipped settings, one of {shipped}, got {path.stem!r}.")
    return path


def load_settings(env_id: str, algo: str = "metra", paper: bool = False) -> dict[str, Any]:
    """
    Read one environment's settings.

    :param env_id: id of the environment; one without an entry of its own gets the ``default`` entry
    :param algo: name of the algorithm
    :param paper: the authors' settings instead of the best ones measured
    :return: rl-zoo3's keys (``n_envs``, ``n_timesteps``, ``env_kwargs``, ...) and the algorithm's arguments
    """
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'Reading the shipped settings needs PyYAML: install it with `pip install "sb3-metra[zoo]"`.'
        ) from error
    entries = yaml.safe_load(settings_path(algo, paper).read_text(encoding="utf-8"))
    settings: dict[str, Any] = entries.get(env_id, entries[DEFAULT_ENTRY])
    return settings


__all__ = ["DEFAULT_ENTRY", "load_settings", "settings_path"]
