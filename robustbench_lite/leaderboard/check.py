"""Does everything in a leaderboards folder still follow from its boards and records? Every gap is named, with what mends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import RECORD_BYTES, Form, read_bytes
from robustbench_lite.leaderboard.board import PAGE, RESULTS, TABLES
from robustbench_lite.leaderboard.build import Built, build
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.lock import lock_problems
from robustbench_lite.leaderboard.results import CELLS, CERTIFICATES, FITS, GALLERY, JOURNAL, Found, Problem, misnamed
from robustbench_lite.leaderboard.slots import positions
from robustbench_lite.records.certificate import read_certificate
from robustbench_lite.records.files import REPLACED
from robustbench_lite.registry import Trust

_RENDERED = Form(
    noun="table or page", what="no file that can be read", most=RECORD_BYTES, error=UsageError,
    fix="Delete it and run `rbl leaderboard build`.",
)  # fmt: skip
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
        problems += [*_without_network(one), *_stale(one), *_rows(one), *_columns(one)]
    problems += [*_orphans(root, built), *lock_problems(root, slots), *_rendered(root, built)]
    return Checked(problems, built)


def _without_network(one: Loaded) -> Iterator[Problem]:
    """Records whose network is gone."""
    pairs = one.filled.pairs()
    gone = {slot.row: slot.missing for slot, found in pairs if slot.missing and found}
    for row, reason in sorted(gone.items()):
        where = f"{one.board.name}, {one.sheet.rows[row].model}"
        yield Problem(where, f"it has records, and {reason}", "restore the weights")


def _stale(one: Loaded) -> Iterator[Problem]:
    """Records that no slot asks for.

    What is missing altogether is no problem: it stands as "-" in the table.
    """
    board = one.board.name
    mend = f"mend boards/{board}.toml, or measure again: rbl leaderboard run {board} --prune"
    nearest: dict[str, list[str]] = {}
    for slot in one.filled.slots if one.filled.unused else ():
        near = one.filled.nearest(slot)
        if near is not None:
            key = near.found.record.key
            nearest[key] = min(near.gaps, nearest.get(key, near.gaps), key=len)
    for found in one.filled.unused:
        gaps = nearest.get(found.record.key, ["no cell of the board is like it"])
        where = f"{RESULTS}/{board}/{CELLS}/{found.path.name}"
        yield Problem(where, f"the board does not ask for it: {'; '.join(gaps[:3])}", mend)


def _rows(one: Loaded) -> Iterator[Problem]:
    """A row is one network, and nothing in it is certified and broken."""
    rows = _group_by_row(one)
    for row in rows:
        yield from _several_networks(row)
        yield from _clean_verdicts(row)
    yield from _proofs(one)
    for row in rows:
        yield from _answers(row)


def _group_by_row(one: Loaded) -> list[Row]:
    cells: dict[int, list[Found]] = {}
    for row, found in one.sheet.records():
        cells.setdefault(row, []).append(found)
    return [Row(one.row_name(row), one.board.name, cells[row]) for row in sorted(cells)]


class Row(NamedTuple):
    """A row of a board, with its records."""

    name: str
    board: str
    cells: list[Found]

    def problem(self, what: str) -> Problem:
        """Something that measuring the row again mends."""
        mend = f"measure the row again: rbl leaderboard run {self.board}"
        return Problem(self.name, what, mend)


def _several_networks(row: Row) -> Iterator[Problem]:
    """All cells of a row are of the same weights and structure."""
    for what in ("weights_sha256", "architecture_sha256"):
        networks = {getattr(found.record.identity.model, what): found for found in row.cells}
        if len(networks) > 1:
            names = _first_two(networks.values())
            yield row.problem(f"its cells are of several networks ({what}): {names}")


def _clean_verdicts(row: Row) -> Iterator[Problem]:
    """All cells of a row say the same of a clean image."""
    ids = [found.record.identity.data.ids() for found in row.cells]
    numbers = np.unique(np.concatenate(ids))
    known = np.full(len(numbers), -1)  # place in numbers -> the first cell that has the sample
    right = np.zeros(len(numbers), dtype=np.bool_)
    for number, (indices, found) in enumerate(zip(ids, row.cells, strict=True)):
        samples = np.searchsorted(numbers, indices)
        new = known[samples] < 0
        known[samples[new]] = number
        right[samples[new]] = found.arrays.clean_correct[new]
        differs = samples[right[samples] != found.arrays.clean_correct]
        if len(differs):
            other = row.cells[known[differs[0]]]
            names = f"{found.path.name} and {other.path.name}"
            what = f"{names} differ on the clean image {numbers[differs[0]]}"
            yield Problem(row.name, what, "measure both again")


def _answers(row: Row) -> Iterator[Problem]:
    """Every record says what its network answers, and those of a row are of one network."""
    said = {found.path.name: found.record.behaviour for found in row.cells if found.record.behaviour is not None}
    silent = [found.path.name for found in row.cells if found.path.name not in said]
    if silent:
        what = f"{len(silent)} of its records do not say what its network answers"
        migrate = f"rbl leaderboard migrate {row.board}"
        mend = f"{migrate}, if the network at hand is that of then; else measure again"
        yield Problem(row.name, f"{what}, such as {silent[0]}", mend)
    first = next(iter(said), "")
    other = [name for name in said if not said[name].agrees(said[first], images=False)]
    if other:
        yield row.problem(f"the networks of {first} and {other[0]} answer otherwise")


def _proofs(one: Loaded) -> Iterator[Problem]:
    """Certified within robust within clean, for every sample."""
    groups = {group.id: group for group in one.sheet.groups}
    for (row, group_id), proof in sorted(one.sheet.proofs.items(), key=lambda item: item[0]):
        group = groups[group_id]
        proved = proof.ids[proof.certified]
        for column, found in one.sheet.column_cells(row, group):
            ids = found.record.identity.data.ids()
            both = np.intersect1d(proved, ids)
            wrong = both[~found.arrays.robust[positions(both, ids)]]
            if len(wrong):
                under = f"{column.heading} ({found.path.name})"
                yield Problem(
                    f"{one.board.name}, {one.sheet.rows[row].defense}, {group.title}",
                    f"sample {wrong[0]} is certified and not robust under {under}",
                    "a bound or an attack is wrong: report it",
                )


def _columns(one: Loaded) -> Iterator[Problem]:
    """All rows of a column were measured on the same samples."""
    samples: dict[str, dict[tuple[str, str], Found]] = {}
    for slot, found in one.filled.pairs():
        if found is not None:
            data = found.record.identity.data
            samples.setdefault(slot.column, {})[data.fingerprint, str(data.id_ranges)] = found
    for column, kinds in sorted(samples.items()):
        if len(kinds) > 1:
            what = f"its rows are measured on different samples: {_first_two(kinds.values())}"
            yield Problem(f"{one.board.name}, {column}", what, "measure the column again")


def _first_two(found: Iterable[Found]) -> str:
    return " and ".join(sorted(one.path.name for one in found)[:2])


def _orphans(root: Path, built: Built) -> Iterator[Problem]:
    """Files that nothing accounts for."""
    boards = {one.board.name: one for one in built.loaded}
    for path in sorted((root / RESULTS).rglob("*")) + sorted((root / TABLES).rglob("*")):
        name = path.relative_to(root)
        if path.is_dir() or name.as_posix() in built.files:
            continue
        one = boards.get(name.parts[1]) if name.parts[0] == RESULTS and len(name.parts) > 2 else None
        if one is not None and name.parts[2] == CERTIFICATES:
            yield from _certificate(path, name.as_posix(), one)
        elif one is None or not _is_accounted(name.parts[2:], one):
            yield Problem(name.as_posix(), "nothing accounts for this file", f"rm {path}")


def _is_accounted(parts: tuple[str, ...], one: Loaded) -> bool:
    """It is a record (looked at already), lies beside one, was replaced, or is the journal."""
    if len(parts) == 1:
        return parts[0].startswith(JOURNAL)
    folder, name = parts[0], parts[-1]
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
            yield Problem(where, "it does not say what its network answers", f"rbl leaderboard migrate {one.board.name}")
        if path.stem != record.key:
            yield misnamed(path, where, record.key)
    except RecordError as error:
        yield Problem(where, str(error).replace(str(path), where), f"restore it, or prove it again: rm {path}")


def _rendered(root: Path, built: Built) -> Iterator[Problem]:
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
    first, second = _GENERATOR.search(there), _GENERATOR.search(here)
    if first is None or second is None or first[1] == second[1]:
        return False
    return _without_drawings(there) == _without_drawings(here)


def _without_drawings(page: str) -> str:
    return _DRAWING.sub("", _GENERATOR.sub("", page))


def difference(there: str, rebuilt: str) -> str:
    """The first lines that differ, as ``diff -u`` would show them."""
    names = ("as it is", "rebuilt")
    lines = list(difflib.unified_diff(there.splitlines(), rebuilt.splitlines(), *names, n=0, lineterm=""))
    more = len(lines) - _DIFF_LINES
    shown = [line if len(line) < 200 else _shorten(line) for line in lines[:_DIFF_LINES]]
    return "\n".join([*shown, *([f"and {more} more lines"] if more > 0 else [])])


def _shorten(line: str) -> str:
    return f"{line[:180]} ... ({len(line):,} characters)"
