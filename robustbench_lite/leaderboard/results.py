"""The records of a board on disk, and which cell each of them fills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError
from robustbench_lite.leaderboard.board import RESULTS, Board
from robustbench_lite.leaderboard.slots import Fields, Slot, differences, flat, flat_differences
from robustbench_lite.records.cell import Identity, Record, read_record
from robustbench_lite.records.outcomes import CellArrays

CELLS, CERTIFICATES, GALLERY, FITS, JOURNAL = "cells", "certificates", "gallery", "fits", "journal.sqlite"
"""What lies in the results of a board; the journal is no result, it holds what is not finished."""


class Problem(NamedTuple):
    """Something that does not hold: where, what, and the command or edit that mends it."""

    where: str
    what: str
    mend: str = ""


class Found(NamedTuple):
    """A record that was read, and agrees with itself."""

    path: Path
    record: Record
    arrays: CellArrays


class Filled(NamedTuple):
    """The slots of a board with their records."""

    slots: list[Slot]
    found: list[Found | None]
    """One entry a slot."""
    unused: list[Found]
    """Records that no slot asks for."""
    problems: list[Problem]

    def reason(self, number: int) -> str:
        """Why the slot has no record."""
        if self.slots[number].missing:
            return self.slots[number].missing
        near = self.nearest(self.slots[number])
        if near is None:
            return "not measured"
        record, gaps = near
        return f"out of date: {gaps[0]} ({record.path.name})"

    def nearest(self, slot: Slot) -> tuple[Found, list[str]] | None:
        """The unused record that differs least from what ``slot`` asks for, if it is of the same row and attack."""
        wanted, unused = slot.expected, self.unused
        kin = [(differences(wanted, f.record.identity), f) for f in unused if _kin(f.record.identity) == _kin(wanted)]
        if not kin:
            return None
        gaps, found = min(kin, key=lambda pair: (len(pair[0]), pair[1].record.key))
        return found, gaps


def _kin(identity: Identity) -> tuple[str, ...]:
    """What a record and the slot that it may stand for have in common at least."""
    return identity.model.name, identity.defense.name, identity.attack.name, identity.threat.norm


def results_folder(board: Board, root: Path) -> Path:
    """Where the records of ``board`` lie."""
    return root / RESULTS / board.name


def read_results(folder: Path, root: Path) -> tuple[list[Found], list[Problem]]:
    """Every record of ``folder``, by key; those that cannot be believed are problems instead."""
    found, problems = [], []
    for path in sorted((folder / CELLS).glob("*.json")):
        where = path.relative_to(root).as_posix()
        try:
            record, arrays = read_record(path)
        except RecordError as error:
            problems.append(
                Problem(where, str(error).replace(str(path), where), f"restore it, or measure the cell again: rm {path}")
            )
            continue
        if path.stem != record.key:
            problems.append(
                Problem(where, f"the file is not named after its key, {record.key}", f"mv {path} {path.with_stem(record.key)}")
            )
            continue
        found.append(Found(path, record, arrays))
    return found, problems


def fill(board: Board, slots: Sequence[Slot], root: Path) -> Filled:
    """Read the records of ``board`` and find the one for each slot; data and networks are not needed."""
    there, problems = read_results(results_folder(board, root), root)
    chosen: list[Found | None] = []
    used: set[str] = set()
    known: dict[tuple[str, ...], list[tuple[Fields, Found]]] = {}  # by kin: comparing all with all grows as the square
    for one in there:
        known.setdefault(_kin(one.record.identity), []).append((flat(one.record.identity), one))
    for slot in slots:
        asked = flat(slot.expected)
        fits = [found for fields, found in known.get(_kin(slot.expected), []) if not flat_differences(asked, fields)]
        if len(fits) > 1:
            names = ", ".join(found.path.name for found in fits)
            problems.append(Problem(slot.label, f"several records fit: {names}", "keep the one that is right"))
        used.update(found.record.key for found in fits)
        chosen.append(fits[0] if fits else None)
    return Filled(list(slots), chosen, [found for found in there if found.record.key not in used], problems)
