"""Zip archives that are written whole, and read with one sentence for whatever is broken."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sb3_metra.common.files import atomic_path, check_files, read_manifest

EXPORT_FORMAT = 1
"""Of the folders that ``export`` writes; the player has its own."""

File = str | os.PathLike[str] | io.BufferedIOBase
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError, RuntimeError)


class Archive:
    """
    A zip archive that is open for reading.

    :param label: its name, for errors
    :param file: its bytes
    :param what: what it is expected to be, for errors
    :raises ValueError: if it is no zip archive, or damaged
    """

    def __init__(self, label: str, file: io.BufferedIOBase, what: str = "saved model") -> None:
        self.label, self.file = label, file
        start = file.tell()
        begins_as_zip = file.read(2) in (b"PK", b"")
        file.seek(start)
        try:
            self._zip = zipfile.ZipFile(file)
        except (*_BROKEN, ValueError) as error:
            if begins_as_zip:
                raise self.broken(str(error)) from error
            raise ValueError(f"{label} is not a {what}: it is no zip archive") from error
        if min((info.header_offset for info in self._zip.infolist()), default=0) > 0:
            raise self.broken("its end is missing")  # what was found is the end of an archive inside it

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name."""
        return name in self._zip.namelist()

    def names(self) -> list[str]:
        """Names of all entries."""
        return self._zip.namelist()

    def crc(self, name: str) -> int | None:
        """The checksum of an entry; ``None`` if there is none of this name."""
        return self._zip.getinfo(name).CRC if self.has(name) else None

    def read(self, name: str) -> bytes:
        """The bytes of an entry."""
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """An entry, to read from."""
        try:
            with self._zip.open(name) as file:
                yield file
        except _BROKEN as error:
            raise self.broken(f"{name} inside it, {str(error).strip(chr(39) + chr(34))}") from error

    def json(self, name: str) -> Any:
        """An entry as JSON."""
        content = self.read(name)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.broken(f"{name} inside it is no JSON ({error})") from error

    def check(self) -> None:
        """Read everything, and compare checksums."""
        for name in self.names():
            with self.open(name) as file:
                while file.read(1 << 20):
                    pass

    def broken(self, reason: str) -> ValueError:
        """The error to raise for an archive that is damaged."""
        return ValueError(f"{self.label} is damaged: {reason}")


class Folder(Archive):
    """
    A folder with the entries of an archive as files, as ``export`` writes it.

    :param path: the folder
    :raises ValueError: if its files are not those that ``skills.json`` in it names, or that is of another format
    """

    def __init__(self, path: Path) -> None:
        self.label, self._path = str(path), path
        if inside := sorted(x.name for x in path.glob("*.zip") if not (path / "skills.json").exists()):
            raise ValueError(f"path must be a model's file or an export's folder, got {path}, which holds {inside}")
        found = read_manifest(path, "skills.json").get("format")
        if found != EXPORT_FORMAT:
            raise ValueError(
                f"{path / 'skills.json'} must have format {EXPORT_FORMAT}, got {found!r}: another version of sb3-metra "
                "wrote it"
            )
        self._names = check_files(path, "skills.json", "files")

    def names(self) -> list[str]:
        """Names of the files whose hashes ``skills.json`` holds."""
        return self._names

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self.names()

    def crc(self, name: str) -> int | None:
        """No checksum: the hashes are checked already."""
        return None

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file, to read from."""
        if not self.has(name):
            raise self.broken(f"there is no {name}")
        with (self._path / name).open("rb") as file:
            yield file


@contextmanager
def open_archive(path: File, suffix: str = "zip") -> Iterator[Archive]:
    """
    Open a zip archive, or the folder of an export.

    :param path: the file, with or without its suffix, or an open one; or a folder
    :param suffix: what may have been left out
    :raises ValueError: if it is no zip archive, or damaged
    """
    if isinstance(path, (str, os.PathLike)) and _means_folder(Path(path), suffix):
        yield Folder(Path(path))
        return
    with open_to_read(path, suffix) as file:
        yield Archive(str(getattr(file, "name", "the file")), file)


def _means_folder(path: Path, suffix: str) -> bool:
    """Whether a folder is meant, and not the file beside it whose suffix was left out."""
    return path.is_dir() and ((path / "skills.json").exists() or not Path(f"{path}.{suffix}").is_file())


@contextmanager
def open_to_read(path: File, suffix: str) -> Iterator[io.BufferedIOBase]:
    """
    Open a file.

    :param path: the file, with or without its suffix, or an open one
    :param suffix: what may have been left out
    """
    if not isinstance(path, (str, os.PathLike)):
        _check_open(path, "read")
        yield path
        return
    whole = Path(path)
    left_out = suffix and not whole.is_file() and whole.suffix != f".{suffix}"
    with (Path(f"{whole}.{suffix}") if left_out else whole).open("rb") as file:
        yield file


def _check_open(path: Any, ability: str) -> None:
    if not hasattr(path, ability):
        raise ValueError(f"path must be a path or an open file, got {path!r:.200}")


@contextmanager
def open_to_write(path: File, suffix: str) -> Iterator[io.BufferedIOBase]:
    """
    A place to write to that becomes the file once the block is done, see
    :func:`~sb3_metra.common.files.atomic_path`; if the block raises, the file stays what it was.

    :param path: the file, whose folder is made, or an open one
    :param suffix: added to a path that has none
    """
    if not isinstance(path, (str, os.PathLike)):
        _check_open(path, "write")
        content = io.BytesIO()
        yield content
        path.write(content.getbuffer())
        return
    target = Path(path)
    target = target if target.suffix or not suffix else target.with_name(f"{target.name}.{suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as aside, aside.open("w+b") as file:
        yield file
