"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

_ABANDONED = 3_600.0  # seconds after which nobody is still writing


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A place beside a file to write its new content to; it replaces the file once it is complete and on the disk.

    If the block raises, the file stays what it was and what was written is removed. What a killed process left behind
    is removed by a later write to the same file.

    :param path: the file to create or replace; its folder must exist
    :return: a path of its own in the same folder, with the same suffix
    :raises OSError: if the folder cannot be written to, or the disk is full
    """
    target = Path(path)
    aside = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield aside
        _sync(aside)
        os.replace(aside, target)
        _sync(target.parent)
        _remove_leftovers(target)
    finally:
        with suppress(OSError):
            aside.unlink()


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{escape(target.stem)}.*.tmp{target.suffix}"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """
    Write a value as JSON, atomically.

    :param path: the file to create or replace
    :param value: what JSON can hold
    """
    text = json.dumps(value, indent=1) + "\n"
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike[str]) -> str:
    """
    The SHA-256 of a file, in hexadecimal.

    :param path: any file
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


MANIFEST = "manifest.json"


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """
    Say in ``manifest.json`` which files of a folder belong together, with their sizes and SHA-256, and sync them all.

    :param folder: any folder; its subfolders are left out
    """
    names = [path.name for path in Path(folder).iterdir() if path.is_file() and path.name != MANIFEST]
    write_json(Path(folder) / MANIFEST, describe_files(folder, names))


def describe_files(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """
    Sizes and SHA-256 of files, which are synced.

    :param folder: where they are
    :param names: their names
    :return: ``bytes`` and ``sha256`` by name
    """
    files = [Path(folder) / name for name in sorted(names)]
    for path in files:
        _sync(path)
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def check_manifest(folder: str | os.PathLike[str]) -> None:
    """
    Refuse a folder whose files are not those that were written together.

    :param folder: a folder with a ``manifest.json``
    :raises ValueError: if the manifest is missing, or a file is missing, incomplete or another
    """
    check_files(folder, MANIFEST)


def read_manifest(folder: str | os.PathLike[str], manifest: str) -> dict[str, Any]:
    """
    A JSON file that says what a folder holds.

    :param folder: the folder
    :param manifest: name of the file
    :raises ValueError: if it is missing, or holds something else
    """
    try:
        content = json.loads((Path(folder) / manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{folder} is damaged: its {manifest} is missing or incomplete")
    return content


def check_files(folder: str | os.PathLike[str], manifest: str, key: str | None = None) -> list[str]:
    """
    Refuse a folder whose files are not those that a manifest in it names.

    :param folder: the folder
    :param manifest: name of a JSON file that holds what :func:`describe_files` gave
    :param key: where it holds it; ``None``: it holds nothing else
    :return: names of the files
    :raises ValueError: if the manifest is missing, or a file is missing, incomplete or another
    """
    expected = read_manifest(folder, manifest)
    try:
        expected = expected if key is None else expected[key]
        entries = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in expected.items()}
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{folder} is damaged: its {manifest} is missing or incomplete") from None
    for name, (size, digest) in entries.items():
        path = Path(folder) / name
        if not path.is_file() or path.stat().st_size != size or sha256(path) != digest:
            raise ValueError(f"{folder} is damaged: {name} is missing, incomplete or from another save")
    return sorted(entries)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the names in a folder are on the disk."""
    _sync(Path(folder))


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; folders cannot be opened on Windows."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
