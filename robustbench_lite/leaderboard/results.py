"""The records of a board on disk, and which cell each of them fills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError
from robustbench_lite.leaderboard.board import RESULTS, Board
from robustbench_lite.leaderboard.slots import Fields, Slot, differences, flat, flat_differences
from robustbench_lite.records.cell import Record, read_record
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.outcomes import CellArrays

CELLS = "cells"
CERTIFICATES = "certificates"
GALLERY = "gallery"
FITS = "fits"
JOURNAL = "journal.sqlite"
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

    @classmethod
    def read(cls, path: Path) -> Found:
        """The record at ``path``; a RecordError if it cannot be believed."""
        return cls(path, *read_record(path))


class Pair(NamedTuple):
    """A slot with its record, if there is one."""

    slot: Slot
    found: Found | None


class NearestRecord(NamedTuple):
    """The record that is most like what a slot asks for, and where it is not like it."""

    found: Found
    gaps: list[str]


class Filled(NamedTuple):
    """The slots of a board with their records."""

    slots: list[Slot]
    found: list[Found | None]
    """One entry a slot."""
    unused: list[Found]
    """Records that no slot asks for."""
    problems: list[Problem]

    def pairs(self) -> list[Pair]:
        """Every slot with its record."""
        return list(map(Pair, self.slots, self.found))

    def reason(self, number: int) -> str:
        """Why the slot has no record."""
        if self.slots[number].missing:
            return self.slots[number].missing
        near = self.nearest(self.slots[number])
        if near is None:
            return "not measured"
        return f"out of date: {near.gaps[0]} ({near.found.path.name})"

    def nearest(self, slot: Slot) -> NearestRecord | None:
        """The unused record that is most like it, if one is of the same row and attack."""
        wanted = slot.expected
        kin = [
            NearestRecord(found, differences(wanted, found.record.identity))
            for found in self.unused
            if Kin.of(found.record.identity) == Kin.of(wanted)
        ]
        return min(kin, key=lambda near: (len(near.gaps), near.found.record.key), default=None)


class Kin(NamedTuple):
    """What a record and the slot that it may stand for have in common at least."""

    model: str
    defense: str
    attack: str
    norm: str

    @classmethod
    def of(cls, identity: Identity) -> Kin:
        """That of a cell."""
        return cls(
            model=identity.model.name,
            defense=identity.defense.name,
            attack=identity.attack.name,
            norm=identity.threat.norm,
        )


def results_folder(board: Board, root: Path) -> Path:
    """Where the records of ``board`` lie."""
    return root / RESULTS / board.name


class Results(NamedTuple):
    """The records of a folder."""

    found: list[Found]
    problems: list[Problem]
    """One for each record that cannot be believed."""


def read_results(folder: Path, root: Path) -> Results:
    """Every record of ``folder``, by key."""
    results = Results([], [])
    for path in sorted((folder / CELLS).glob("*.json")):
        where = path.relative_to(root).as_posix()
        try:
            found = Found.read(path)
        except RecordError as error:
            what = str(error).replace(str(path), where)
            mend = f"restore it, or measure the cell again: rm {path}"
            results.problems.append(Problem(where, what, mend))
            continue
        if path.stem != found.record.key:
            results.problems.append(misnaming(path, where, found.record.key))
            continue
        results.found.append(found)
    return results


def misnaming(path: Path, where: str, key: str) -> Problem:
    """A file that is not named after the key of its record."""
    what = f"the file is not named after its key, {key}"
    return Problem(where, what, f"mv {path} {path.with_stem(key)}")


def fill(board: Board, slots: Sequence[Slot], root: Path) -> Filled:
    """Read the records of ``board`` and find the one for each slot.

    Data and networks are not needed.
    """
    there, problems = read_results(results_folder(board, root), root)
    chosen: list[Found | None] = []
    used: set[str] = set()
    # By kin: comparing all with all grows as the square.
    known: dict[Kin, list[tuple[Fields, Found]]] = {}
    for one in there:
        identity = one.record.identity
        known.setdefault(Kin.of(identity), []).append((flat(identity), one))
    for slot in slots:
        asked = flat(slot.expected)
        kin = known.get(Kin.of(slot.expected), [])
        fits = [found for fields, found in kin if not flat_differences(asked, fields)]
        if len(fits) > 1:
            names = ", ".join(found.path.name for found in fits)
            what = f"several records fit: {names}"
            problems.append(Problem(slot.label, what, "keep the one that is right"))
        used.update(found.record.key for found in fits)
        chosen.append(fits[0] if fits else None)
    unused = [found for found in there if found.record.key not in used]
    return Filled(list(slots), chosen, unused, problems)
