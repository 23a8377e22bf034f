"""Trained skills that come with the package: weights and JSON, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sb3_metra.algorithms import load
from sb3_metra.common.inputs import check_choice

FOLDER = Path(__file__).resolve().parent
"""Where the models are, a folder each. Nothing may be written there."""
ORIGIN = "origin.json"
"""What says how a model was trained: environment, command, seed, steps, versions, coverage."""


def names() -> list[str]:
    """The trained models that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{ORIGIN}"))


def find_pretrained(name: str) -> tuple[Path, dict[str, Any]]:
    """
    The folder of a trained model, which :func:`sb3_metra.load` and all commands read, and how it was trained.

    :param name: one of :func:`names`
    :raises ValueError: if it is another
    """
    folder = FOLDER / check_choice("name", name, names())
    return folder, json.loads((folder / ORIGIN).read_text(encoding="utf-8"))


def load_pretrained(name: str, env: Any = None, **kwargs: Any) -> Any:
    """
    A trained model that comes with the package.

    :param name: one of :func:`names`
    :param env: the environment to continue learning in; ``None``: only to act and to encode
    :param kwargs: further arguments of :func:`sb3_metra.load`
    :return: the model; its environment's id is ``find_pretrained(name)[1]["env"]``
    :raises ValueError: if there is no such model
    """
    return load(find_pretrained(name)[0], env, **kwargs)
