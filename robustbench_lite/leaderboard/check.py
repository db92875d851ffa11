"""Does everything in a leaderboards folder still follow from its boards and records? Every gap is named, with what mends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import RECORD_BYTES, Form, read_bytes
from robustbench_lite.leaderboard.board import PAGE, RESULTS, TABLES
from robustbench_lite.leaderboard.build import Built, Loaded, build
from robustbench_lite.leaderboard.lock import lock_problems
from robustbench_lite.leaderboard.results import CELLS, CERTIFICATES, FITS, GALLERY, JOURNAL, Found, Problem
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


def check(root: Path, trust: Trust = Trust.REGISTERED) -> tuple[list[Problem], Built]:
    """Everything that can be said without the data: problems, what to mend first at the top, and what was built on the way."""
    built = build(root, trust)
    slots = [slot for one in built.loaded for slot in one.filled.slots]
    problems = list(built.problems)
    for one in built.loaded:
        problems += [*_without_network(one), *_stale(one), *_rows(one), *_answers(one), *_columns(one)]
    problems += [*_orphans(root, built), *lock_problems(root, slots), *_rendered(root, built)]
    return problems, built


def _without_network(one: Loaded) -> Iterator[Problem]:
    """Records whose network is gone."""
    gone = {s.row: s.missing for s, found in zip(one.filled.slots, one.filled.found, strict=True) if s.missing and found}
    for row, reason in sorted(gone.items()):
        yield Problem(f"{one.board.name}, {one.sheet.rows[row].model}", f"it has records, and {reason}", "restore the weights")


def _stale(one: Loaded) -> Iterator[Problem]:
    """Records that no slot asks for; what is missing altogether is no problem, it stands as "-" in the table."""
    board = one.board.name
    nearest: dict[str, list[str]] = {}
    for slot in one.filled.slots if one.filled.unused else ():
        near = one.filled.nearest(slot)
        if near is not None:
            found, gaps = near
            nearest[found.record.key] = min(gaps, nearest.get(found.record.key, gaps), key=len)
    for found in one.filled.unused:
        gaps = nearest.get(found.record.key, ["no cell of the board is like it"])
        yield Problem(
            f"{RESULTS}/{board}/{CELLS}/{found.path.name}", f"the board does not ask for it: {'; '.join(gaps[:3])}",
            f"mend boards/{board}.toml, or measure again: rbl leaderboard run {board} --prune",
        )  # fmt: skip


def _rows(one: Loaded) -> Iterator[Problem]:
    """A row is one network: the same weights, the same clean verdicts; and nothing in it is certified and broken."""
    by_row: dict[int, list[Found]] = {}
    for row, found in one.sheet.records():
        by_row.setdefault(row, []).append(found)
    for row, cells in sorted(by_row.items()):
        label = f"{one.board.name}, {one.sheet.rows[row].model} ({one.sheet.rows[row].defense})"
        for what in ("weights_sha256", "architecture_sha256"):
            values = {getattr(found.record.identity.model, what): found for found in cells}
            if len(values) > 1:
                names = " and ".join(sorted(found.path.name for found in values.values())[:2])
                yield Problem(
                    label,
                    f"its cells are of several networks ({what}): {names}",
                    f"measure the row again: rbl leaderboard run {one.board.name}",
                )
        ids = [found.record.identity.data.ids() for found in cells]
        numbers = np.unique(np.concatenate(ids))
        known = np.full(len(numbers), -1)  # place in numbers -> the first cell that has the sample
        right = np.zeros(len(known), dtype=np.bool_)
        for number, (indices, found) in enumerate(zip(ids, cells, strict=True)):
            samples = np.searchsorted(numbers, indices)
            new = known[samples] < 0
            known[samples[new]], right[samples[new]] = number, found.arrays.clean_correct[new]
            differs = samples[right[samples] != found.arrays.clean_correct]
            if len(differs):
                other = cells[known[differs[0]]].path.name
                sample = numbers[differs[0]]
                yield Problem(label, f"{found.path.name} and {other} differ on the clean image {sample}", "measure both again")
    yield from _proofs(one)


def _answers(one: Loaded) -> Iterator[Problem]:
    """Every record says what its network answers, and those of a row are answers of one network."""
    by_row: dict[int, list[Found]] = {}
    for row, found in one.sheet.records():
        by_row.setdefault(row, []).append(found)
    for row, cells in sorted(by_row.items()):
        label = f"{one.board.name}, {one.sheet.rows[row].model} ({one.sheet.rows[row].defense})"
        said = [(found, found.record.behaviour) for found in cells if found.record.behaviour is not None]
        if len(said) < len(cells):
            name = next(found.path.name for found in cells if found.record.behaviour is None)
            yield Problem(
                label, f"{len(cells) - len(said)} of its records do not say what its network answers, such as {name}",
                f"rbl leaderboard migrate {one.board.name}, if the network at hand is that of then; else measure again",
            )  # fmt: skip
        other = [found for found, answers in said if not answers.agrees(said[0][1], images=False)]
        if other:
            yield Problem(
                label, f"the networks of {said[0][0].path.name} and {other[0].path.name} answer otherwise",
                f"measure the row again: rbl leaderboard run {one.board.name}",
            )  # fmt: skip


def _proofs(one: Loaded) -> Iterator[Problem]:
    """Certified within robust within clean, for every sample."""
    for (row, group_id), proof in sorted(one.sheet.proofs.items(), key=lambda item: item[0]):
        group = next(group for group in one.sheet.groups if group.id == group_id)
        proved = proof.ids[proof.certified]
        for column, found in one.sheet.column_cells(row, group):
            ids = found.record.identity.data.ids()
            both = np.intersect1d(proved, ids)
            wrong = both[~found.arrays.robust[positions(both, ids)]]
            if len(wrong):
                yield Problem(
                    f"{one.board.name}, {one.sheet.rows[row].defense}, {group.title}",
                    f"sample {wrong[0]} is certified and not robust under {column.heading} ({found.path.name})",
                    "a bound or an attack is wrong: report it",
                )  # fmt: skip


def _columns(one: Loaded) -> Iterator[Problem]:
    """All rows of a column were measured on the same samples."""
    samples: dict[str, dict[tuple[str, str], Found]] = {}
    for slot, found in zip(one.filled.slots, one.filled.found, strict=True):
        if found is not None:
            data = found.record.identity.data
            samples.setdefault(slot.column, {})[data.fingerprint, str(data.id_ranges)] = found
    for column, kinds in sorted(samples.items()):
        if len(kinds) > 1:
            names = " and ".join(sorted(found.path.name for found in kinds.values())[:2])
            yield Problem(
                f"{one.board.name}, {column}",
                f"its rows are measured on different samples: {names}",
                "measure the column again",
            )


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
        elif one is None or not _accounted(name.parts[2:], one):
            yield Problem(name.as_posix(), "nothing accounts for this file", f"rm {path}")


def _accounted(parts: tuple[str, ...], one: Loaded) -> bool:
    """A record (it was looked at already), what lies beside a record, what was replaced, or the journal."""
    keys = {found.record.key for found in (*one.filled.found, *one.filled.unused) if found is not None}
    if len(parts) == 1:
        return parts[0].startswith(JOURNAL)
    folder, name = parts[0], parts[-1]
    if folder == REPLACED:  # what `run` has measured anew: no result, and gone with --prune
        return True
    beside = {GALLERY: ".json", FITS: ".safetensors"}
    return (folder == CELLS and name.endswith(".json")) or (folder in beside and name.removesuffix(beside[folder]) in keys)


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
            yield Problem(
                where, f"the file is not named after its key, {record.key}", f"mv {path} {path.with_stem(record.key)}"
            )
    except RecordError as error:
        yield Problem(where, str(error).replace(str(path), where), f"restore it, or prove it again: rm {path}")


def _rendered(root: Path, built: Built) -> Iterator[Problem]:
    """Every table and page is what a rebuild gives, byte for byte."""
    for name, text in sorted(built.files.items()):
        path = root / name
        if not path.exists():
            yield Problem(name, "it is missing", f"rbl leaderboard build --root {root}")
            continue
        there = read_bytes(path, _RENDERED).decode("utf-8", errors="replace")
        if there != text and not (name == PAGE and _drawn_elsewhere(there, text)):
            yield Problem(
                name, f"it is not what the records give:\n{difference(there, text)}", f"rbl leaderboard build --root {root}"
            )


def _drawn_elsewhere(there: str, here: str) -> bool:
    """The page was built with another matplotlib, and differs in its drawings alone."""
    drawn = [_GENERATOR.search(text) for text in (there, here)]
    if not all(drawn) or drawn[0][1] == drawn[1][1]:  # type: ignore[index]
        return False
    first, second = (_DRAWING.sub("", _GENERATOR.sub("", text)) for text in (there, here))
    return first == second


def difference(there: str, rebuilt: str) -> str:
    """The first lines that differ, as ``diff -u`` would show them."""
    lines = [
        line if len(line) < 200 else _around(line)
        for line in difflib.unified_diff(there.splitlines(), rebuilt.splitlines(), "as it is", "rebuilt", n=0, lineterm="")
    ]
    return "\n".join(
        [*lines[:_DIFF_LINES], *([f"and {len(lines) - _DIFF_LINES} more lines"] if len(lines) > _DIFF_LINES else [])]
    )


def _around(line: str) -> str:
    return f"{line[:180]} ... ({len(line):,} characters)"
