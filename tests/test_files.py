"""Files are whole or as they were before."""

import os
from pathlib import Path

import pytest

from sb3_metra.common.files import atomic_path, check_manifest, sha256, write_json, write_manifest


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_text("old")
    with pytest.raises(OSError, match="disk"), atomic_path(file) as aside:  # noqa: PT012
        aside.write_text("half")
        raise OSError("disk full")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_replaced_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_text("old")
    with atomic_path(file) as aside:
        aside.write_text("new")
        assert aside.suffix == ".zip"
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.0123.tmp.zip", ".a.4567.tmp.zip", ".b.0123.tmp.zip"))
    for leftover in (old, new, other):
        leftover.write_text("half")
    for leftover in (old, other):
        os.utime(leftover, (0, 0))
    with atomic_path(tmp_path / "a.zip") as aside:
        aside.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.zip", new, other])


def test_json_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def written(folder: Path) -> Path:
    (folder / "a").write_bytes(b"abc")
    (folder / "b").write_bytes(b"defg")
    write_manifest(folder)
    return folder / "b"


def test_a_manifest_says_what_belongs_together(tmp_path: Path) -> None:
    written(tmp_path)
    check_manifest(tmp_path)
    (tmp_path / "c").write_bytes(b"")  # of somebody else
    check_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"de", b"defh", None])
def test_a_torn_another_or_missing_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = written(tmp_path)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: b is missing, incomplete or from another save"):
        check_manifest(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', '{"a": {"bytes": 3}}', None])
def test_a_manifest_that_is_none_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"is damaged: its manifest.json is missing or incomplete"):
        check_manifest(tmp_path)
