"""Files from elsewhere are looked at before they are opened, and every fault of one is told in the
same way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.errors import DataError, RecordError, UsageError
from robustbench_lite.files.reading import (
    Form,
    below,
    explain,
    read_bytes,
    reading,
    reason_of,
    require_memory,
)
from robustbench_lite.files.text import read_json, read_text, read_toml

FORM = Form(noun="list", what="no list", fix="Write one.", most=1000, error=DataError)


def test_a_file_within_its_bounds_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    assert read_bytes(tmp_path / "a", FORM) == b"12"
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "link", FORM) == b"12"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is a named pipe; a list is a regular file. Write one."),
    "a socket": (_socket, "is a socket"),
    "a folder": (Path.mkdir, "is a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a loop": (lambda path: path.symlink_to(path), "Cannot read the list"),
    "a dead link": (lambda path: path.symlink_to(path.parent / "nothing"), "No list is at"),
    "nothing": (lambda path: None, "No list is at .*a. Write one."),
    "too large": (
        lambda path: path.write_bytes(b"0" * 1001),
        "has 1,001 bytes; a list has at most 1,000",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_without_being_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = ODD[kind]
    monkeypatch.chdir(tmp_path)  # the path of a socket has a hundred characters at most
    make(Path("a"))
    monkeypatch.setattr(Path, "open", lambda *rest, **more: pytest.fail("it was opened"))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was opened"))
    with pytest.raises(DataError, match=message):
        read_bytes(Path("a"), FORM)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_is_none_is_a_usage_error(name: str) -> None:
    with pytest.raises(DataError, match="Cannot read the list"):
        read_bytes(Path(name), FORM)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("odd"), "odd"),
        (RecursionError("maximum"), "nested too deeply"),
        (MemoryError(), "more memory"),
        (KeyError("x"), "'x' is not in it"),
        (IndexError(), "IndexError"),
        (OSError(5, "Input/output error"), "Input/output"),
        (AssertionError("a\nb."), "a b"),
        (ValueError("x" * 999), r"x{300}\.\.\."),
    ],
)
def test_whatever_goes_wrong_says_what_was_expected_what_was_found_and_what_to_do(
    error: Exception, reason: str
) -> None:
    with (
        pytest.raises(
            DataError, match=rf"^a\.txt is no list: .*{reason}.*\. Write one\.$"
        ) as caught,
        explain("a.txt", FORM),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RecordError("of another"), KeyboardInterrupt(), SystemExit()])
def test_errors_of_this_project_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explain("a.txt", FORM):
        raise error
    assert caught.value is error


def test_more_than_the_machine_has_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("robustbench_lite.files.reading.installed_memory", lambda: 100)
    require_memory(100, "a.npz", FORM)
    with pytest.raises(DataError, match="unpacks to 101 bytes; at most 100"):
        require_memory(101, "a.npz", FORM)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a", "b/../../a", "~/a", "out/a", "loop/a", "a\0b"]
)
def test_a_path_in_a_file_leads_nowhere_but_below_its_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(UsageError, match="Type it"):
        below(root, name, "The weights", "Type it.")


def test_a_path_below_is_taken_links_within_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert below(tmp_path, "in/a", "The weights", "") == tmp_path / "in/a"
    assert below(tmp_path, "link/a", "The weights", "") == tmp_path / "link/a"
    assert below(tmp_path / "link", "a", "The weights", "") == tmp_path / "link/a"


DEEP = "[" * 5000
TEXTS = [
    (read_json, b"{", "no list"),
    (read_json, b"", "no list"),
    (read_json, b"\xff\xfe", "no list"),
    (read_json, b"NaN", "no list"),
    (read_json, DEEP.encode(), "recursion"),
    (read_json, b"[" * 150 + b"]" * 150, "nested more than 100 deep"),
    (read_toml, b"a = ", "no list"),
    (read_toml, b"\xff", "UTF-8"),
    (read_toml, b"a = " + b"9" * 900, None),
    (read_toml, f"a = {DEEP}"[:999].encode(), "nested|no list"),
    (read_toml, b"a" + b".a" * 400 + b" = 1", "100 deep"),
    (read_text, b"\xff", "byte 0 is no UTF-8"),
    (read_toml, b"", None),
    (read_json, b'{"a": [1]}', None),
]


@pytest.mark.parametrize(("read", "content", "message"), TEXTS)
def test_text_that_cannot_be_read_is_explained(
    tmp_path: Path, read: Callable[..., Any], content: bytes, message: str | None
) -> None:
    (tmp_path / "a").write_bytes(content)
    form = Form(noun="list", what="no list", fix="Write one.", most=10**6, error=DataError)
    if message is None:
        read(tmp_path / "a", form)
        return
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a", form)


def test_a_key_of_many_parts_does_not_hold_its_reader_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" + b".a" * 200_000 + b" = 1")
    with pytest.raises(DataError, match="more than 1,000 dots"):
        read_toml(
            tmp_path / "a",
            Form(noun="list", what="no list", fix="Write one.", most=2**20, error=DataError),
        )


def test_a_file_that_goes_away_while_it_is_read_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    with (
        pytest.raises(DataError, match=r"a is no list: No such file"),
        reading(tmp_path / "a", FORM),
    ):
        (tmp_path / "a").rename(tmp_path / "b").with_name("a").read_bytes()


def test_reasons_are_one_line() -> None:
    assert reason_of(ValueError("two\nlines.")) == "two lines"
