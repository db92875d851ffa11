"""Does everything in a leaderboards folder still follow from its boards and records?

Every gap is named, with what mends it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import RECORD_BYTES, Form, read_bytes
from robustbench_lite.leaderboard.agreement import record_problems
from robustbench_lite.leaderboard.board import PAGE, RESULTS, TABLES
from robustbench_lite.leaderboard.build import Built, build
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.lock import lock_problems
from robustbench_lite.leaderboard.results import (
    CELLS,
    CERTIFICATES,
    FITS,
    GALLERY,
    JOURNAL,
    Problem,
    misnaming,
)
from robustbench_lite.records.certificate import read_certificate
from robustbench_lite.records.files import REPLACED
from robustbench_lite.registry import Trust

_RENDERED = Form(
    noun="table or page",
    what="no file that can be read",
    most=RECORD_BYTES,
    error=UsageError,
    fix="Delete it and run `rbl leaderboard build`.",
)
_DIFF_LINES = 12
"""Lines of a difference that are shown."""
_GENERATOR = re.compile(r'<meta name="generator" content="([^"]*)">')
_DRAWING = re.compile(r"<svg.*?</svg>", re.DOTALL)


class Checked(NamedTuple):
    """What came of a check."""

    problems: list[Problem]
    """What to mend first at the top."""
    built: Built
    """What was built on the way."""


def check(root: Path, trust: Trust = Trust.REGISTERED) -> Checked:
    """Everything that can be said without the data."""
    built = build(root, trust)
    slots = [slot for one in built.loaded for slot in one.filled.slots]
    problems = list(built.problems)
    for one in built.loaded:
        problems += record_problems(one)
    problems += [*_orphans(root, built), *lock_problems(root, slots), *_check_rendered(root, built)]
    return Checked(problems, built)


def _orphans(root: Path, built: Built) -> Iterator[Problem]:
    """Files that nothing accounts for."""
    boards = {one.board.name: one for one in built.loaded}
    for path in sorted((root / RESULTS).rglob("*")) + sorted((root / TABLES).rglob("*")):
        name = path.relative_to(root)
        if path.is_dir() or name.as_posix() in built.files:
            continue
        one = (
            boards.get(name.parts[1]) if name.parts[0] == RESULTS and len(name.parts) > 2 else None
        )
        if one is not None and name.parts[2] == CERTIFICATES:
            yield from _certificate(path, name.as_posix(), one)
        elif one is None or not _is_accounted(name.parts[2:], one):
            yield Problem(name.as_posix(), "nothing accounts for this file", f"rm {path}")


def _is_accounted(parts: tuple[str, ...], one: Loaded) -> bool:
    """It is a record (looked at already), lies beside one, was replaced, or is the journal."""
    if len(parts) == 1:
        return parts[0].startswith(JOURNAL)
    folder = parts[0]
    name = parts[-1]
    if folder == REPLACED:  # what `run` has measured anew: no result, and gone with --prune
        return True
    if folder == CELLS:
        return name.endswith(".json")
    beside = {GALLERY: ".json", FITS: ".safetensors"}
    keys = {found.record.key for found in (*one.filled.found, *one.filled.unused) if found}
    return folder in beside and name.removesuffix(beside[folder]) in keys


def _certificate(path: Path, where: str, one: Loaded) -> Iterator[Problem]:
    """A certificate must agree with itself and be of a network of the board."""
    weights = {slot.expected.model.weights_sha256 for slot in one.filled.slots}
    try:
        record, _ = read_certificate(path)
        if "" not in weights and record.identity.model.weights_sha256 not in weights:
            yield Problem(where, "it is of a network that the board does not have", f"rm {path}")
        if record.behaviour is None:
            yield Problem(
                where,
                "it does not say what its network answers",
                f"rbl leaderboard migrate {one.board.name}",
            )
        if path.stem != record.key:
            yield misnaming(path, where, record.key)
    except RecordError as error:
        yield Problem(
            where, str(error).replace(str(path), where), f"restore it, or prove it again: rm {path}"
        )


def _check_rendered(root: Path, built: Built) -> Iterator[Problem]:
    """Every table and page is what a rebuild gives, byte for byte."""
    mend = f"rbl leaderboard build --root {root}"
    for name, text in sorted(built.files.items()):
        path = root / name
        if not path.exists():
            yield Problem(name, "it is missing", mend)
            continue
        there = read_bytes(path, _RENDERED).decode("utf-8", errors="replace")
        if there != text and not (name == PAGE and _is_drawn_elsewhere(there, text)):
            what = f"it is not what the records give:\n{difference(there, text)}"
            yield Problem(name, what, mend)


def _is_drawn_elsewhere(there: str, here: str) -> bool:
    """The page was built with another matplotlib, and differs in its drawings alone."""
    first = _GENERATOR.search(there)
    second = _GENERATOR.search(here)
    if first is None or second is None or first[1] == second[1]:
        return False
    return _without_drawings(there) == _without_drawings(here)


def _without_drawings(page: str) -> str:
    return _DRAWING.sub("", _GENERATOR.sub("", page))


def difference(there: str, rebuilt: str) -> str:
    """The first lines that differ, as ``diff -u`` would show them."""
    texts = there.splitlines(), rebuilt.splitlines()
    lines = list(difflib.unified_diff(*texts, "as it is", "rebuilt", n=0, lineterm=""))
    more = len(lines) - _DIFF_LINES
    shown = [line if len(line) < 200 else _shorten(line) for line in lines[:_DIFF_LINES]]
    return "\n".join([*shown, *([f"and {more} more lines"] if more > 0 else [])])


def _shorten(line: str) -> str:
    return f"{line[:180]} ... ({len(line):,} characters)"
