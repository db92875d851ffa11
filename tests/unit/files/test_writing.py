"""A file is written whole, or not at all, whoever else writes it at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.writing import replacing, write_bytes


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    nothing: dict[int, bytes] = {}
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(nothing[file.write(b"ne")])
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert [found.name for found in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"new"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("name", ["no/such/folder/a", "a\0b", "x" * 5000])
def test_what_cannot_be_written_is_explained(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="Cannot write"):
        write_bytes(tmp_path / name, b"")
    with pytest.raises(UsageError, match="Cannot write"), replacing(tmp_path / name, UsageError):
        pass
