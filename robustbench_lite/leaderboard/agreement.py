"""Do the records of a board agree with it, and with each other?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from robustbench_lite.leaderboard.board import RESULTS
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.results import CELLS, Found, Problem
from robustbench_lite.leaderboard.slots import positions


def record_problems(one: Loaded) -> list[Problem]:
    """Everything about the cells of a board that does not hold."""
    return [*_without_network(one), *_stale(one), *_rows(one), *_columns(one)]


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


def _group_by_row(one: Loaded) -> list[RowRecords]:
    cells: dict[int, list[Found]] = {}
    for row, found in one.sheet.records():
        cells.setdefault(row, []).append(found)
    return [RowRecords(one.row_name(row), one.board.name, cells[row]) for row in sorted(cells)]


class RowRecords(NamedTuple):
    """A row of a board, with its records."""

    name: str
    board: str
    cells: list[Found]

    def problem(self, what: str) -> Problem:
        """Something that measuring the row again mends."""
        mend = f"measure the row again: rbl leaderboard run {self.board}"
        return Problem(self.name, what, mend)


def _several_networks(row: RowRecords) -> Iterator[Problem]:
    """All cells of a row are of the same weights and structure."""
    for what in ("weights_sha256", "architecture_sha256"):
        networks = {getattr(found.record.identity.model, what): found for found in row.cells}
        if len(networks) > 1:
            names = _first_two(networks.values())
            yield row.problem(f"its cells are of several networks ({what}): {names}")


def _clean_verdicts(row: RowRecords) -> Iterator[Problem]:
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


def _answers(row: RowRecords) -> Iterator[Problem]:
    """Every record says what its network answers, and those of a row are of one network."""
    answers = {found.path.name: found.record.behaviour for found in row.cells}
    said = {name: answer for name, answer in answers.items() if answer is not None}
    silent = [name for name in answers if name not in said]
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
