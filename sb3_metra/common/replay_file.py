"""Replay in a file: a zip archive of NumPy's arrays and JSON, as large as what is filled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_metra.common.archive import Archive, File, open_to_read, open_to_write
from sb3_metra.common.skills import OneHotPrior, SkillPrior

_META = "replay.json"
_FORMAT = 1
_WHAT = "saved replay buffer"


def write_replay(path: File, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """
    Write a replay buffer, atomically if the file has a path.

    :param path: the file, to which ``.pkl`` is added if it has no suffix, as SB3 does, or an open one
    :param meta: what JSON can hold of it
    :param arrays: its arrays by name
    """
    with open_to_write(path, "pkl") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_META, json.dumps({"format": _FORMAT, "meta": meta}, indent=1))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def is_pickle(path: File) -> bool:
    """Whether a file is a pickle, as SB3 writes replay, and this package before 0.2 did."""
    with open_to_read(path, "pkl") as file:
        start = file.tell()
        first = file.read(1)
        file.seek(start)
        return first == b"\x80"


def read_replay(path: File) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """
    Read a replay buffer; nothing is unpickled.

    :param path: the file, with or without ``.pkl``, or an open one
    :return: its name, for errors, and what was given to :func:`write_replay`
    :raises ValueError: if the file is damaged, or holds no replay
    """
    with open_to_read(path, "pkl") as file:
        archive = Archive(str(getattr(file, "name", "the file")), file, _WHAT)
        content = archive.json(_META) if archive.has(_META) else None
        if (
            not isinstance(content, dict)
            or content.get("format") != _FORMAT
            or not isinstance(content.get("meta"), dict)
        ):
            raise ValueError(f"{archive.label} is not a {_WHAT} of this version: it has no {_META} of format {_FORMAT}")
        names = [name for name in archive.names() if name.endswith(".npy")]
        return archive.label, content["meta"], {name.removesuffix(".npy"): _array(archive, name) for name in names}


def _array(archive: Archive, name: str) -> np.ndarray:
    try:
        with archive.open(name) as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)
    except ValueError as error:
        raise archive.broken(f"{name} inside it, {error}") from error


def check_skills(label: str, prior: SkillPrior, skills: np.ndarray) -> None:
    """
    Refuse replay whose skills cannot come from p(z).

    :param label: its name, for the error
    :param prior: p(z)
    :param skills: (steps, n_envs, dim)
    :raises ValueError: if one of them cannot
    """
    if skills.shape[-1] != prior.dim:
        raise ValueError(f"{label} must hold skills of dimension {prior.dim}, got {skills.shape[-1]}")
    rows = skills.reshape(-1, prior.dim)
    try:
        prior.validate(rows)
    except ValueError as error:
        raise ValueError(f"{label} must hold skills of {prior}: {error}") from error
    if prior.discrete or prior.dim == 1 or len(rows) == 0:
        return
    try:
        OneHotPrior(prior.dim).validate(rows)
    except ValueError:
        return
    raise ValueError(f"{label} must hold skills of {prior}, got discrete ones: all of them are one-hot")
