"""Files are whole or as they were before."""

from pathlib import Path

import pytest

from sb3_metra.common.files import atomic_path, sha256, write_json


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


def test_json_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
