"""What a table shows, of a board or of somebody's own run: rows, columns, records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.board import Board, Threat
from robustbench_lite.leaderboard.results import Filled, Found
from robustbench_lite.leaderboard.standing.document import AttackColumn, ThreatTable
from robustbench_lite.records.identity import DataId
from robustbench_lite.sources.load_data import NOTES

ANY_SIZE = "none"
"""How a radius is written where any distance counts."""


class Row(NamedTuple):
    """A network behind its defense."""

    model: str
    defense: str

    @property
    def name(self) -> str:
        """The network with its defense, as messages say it."""
        return words.entrant(self.model, self.defense)


class RowRecord(NamedTuple):
    """A record with the number of its row."""

    row: int
    found: Found


class ColumnRecord(NamedTuple):
    """A record with its column."""

    column: AttackColumn
    found: Found


class RowProof(NamedTuple):
    """Samples that are proved robust: data-set indices and verdicts, (N,) each."""

    ids: NDArray[np.int64]
    certified: NDArray[np.bool_]


@dataclass(frozen=True)
class Sheet:
    """One board, or one run, ready to be rendered."""

    name: str
    title: str
    about: str
    data: str
    """Data set and split."""
    seed: int | None
    ranking: str
    """Id of the group that rows are ranked by."""
    alpha: float
    rows: list[Row]
    groups: list[ThreatTable]
    """Threat models, each with its columns."""
    cells: Mapping[tuple[int, str], Found]
    """By row and column id."""
    missing: Mapping[tuple[int, str], str]
    """Why a cell has no record."""
    others: list[RowRecord] = field(default_factory=list)
    """Beside the table: points of the accuracy-against-eps picture."""
    proofs: Mapping[tuple[int, str], RowProof] = field(default_factory=dict)
    """By row and group id."""

    def records(self) -> Iterator[RowRecord]:
        """Every record with its row, each once."""
        seen: set[str] = set()
        in_table = [RowRecord(row, found) for (row, _), found in sorted(self.cells.items())]
        for record in [*in_table, *self.others]:
            key = record.found.record.key
            if key not in seen:
                seen.add(key)
                yield record

    def column_cells(self, row: int, group: ThreatTable) -> list[ColumnRecord]:
        """The measured cells of a row under one threat model."""
        cells = ((column, self.cells.get((row, column.id))) for column in group.attacks)
        return [ColumnRecord(column, found) for column, found in cells if found is not None]

    def row_number(self, row: Row) -> int:
        """Where a row stands, the first if there are several."""
        return self.rows.index(row)

    def short_name(self, row: int) -> str:
        """The defense, with its network where others have the same defense."""
        known = self.rows[row]
        twice = sum(other.defense == known.defense for other in self.rows) > 1
        return words.entrant(known.defense, known.model) if twice else known.defense


def of_board(board: Board, filled: Filled) -> Sheet:
    """The sheet of a board whose slots were looked for on disk."""
    cells: dict[tuple[int, str], Found] = {}
    missing: dict[tuple[int, str], str] = {}
    others: list[RowRecord] = []
    for number, (slot, found) in enumerate(filled.pairs()):
        if found is None:
            missing[slot.row, slot.column] = filled.reason(number)
        elif slot.on_curve:
            others.append(RowRecord(slot.row, found))
        else:
            cells[slot.row, slot.column] = found
    samples = {slot.column: slot.n for slot in filled.slots}
    groups = [_table(threat, samples) for threat in board.threats]
    first = {slot.row: slot.expected for slot in reversed(filled.slots)}
    return Sheet(
        name=board.name,
        title=board.title,
        about=board.about,
        data=describe(first[0].data),
        seed=board.seed,
        ranking=board.ranking.threat,
        alpha=board.ranking.alpha,
        rows=[Row(first[row].model.name, words.defense(first[row])) for row in sorted(first)],
        groups=groups,
        cells=cells,
        missing=missing,
        others=others,
        proofs=join_proofs(groups, cells),
    )


def _table(threat: Threat, samples: Mapping[str, int]) -> ThreatTable:
    """The columns of a threat model of a board; ``samples`` says of each how many there are."""
    columns = []
    for trial in threat.attacks:
        name = f"{threat.id}/{trial.heading}"
        columns.append(
            AttackColumn(
                id=name,
                heading=trial.heading,
                attack=trial.attack,
                n=samples[name],
                query_budget=trial.query_budget,
            )
        )
    radius = None if threat.eps == ANY_SIZE else threat.eps
    title = threat.title or words.threat_title(threat.norm, radius, threat.goal)
    return ThreatTable(
        id=threat.id,
        title=title,
        norm=threat.norm,
        eps=radius,
        goal=threat.goal,
        attacks=columns,
        suites=suites_among(columns),
    )


def suites_among(columns: Iterable[AttackColumn]) -> list[str]:
    """List the ids of those columns that are suites."""
    return [column.id for column in columns if words.is_suite(column.attack.split()[0])]


def join_proofs(
    groups: Sequence[ThreatTable],
    cells: Mapping[tuple[int, str], Found],
) -> dict[tuple[int, str], RowProof]:
    """What the records of a row prove under a threat model, together.

    Each certificate is sound by itself.
    """
    proofs: dict[tuple[int, str], RowProof] = {}
    for group in groups:
        names = {column.id for column in group.attacks}
        for row in sorted({row for row, column in cells if column in names}):
            found = [cells[row, name] for name in names if (row, name) in cells]
            verdicts = _merge_verdicts(found)
            if verdicts:
                ids = np.array(sorted(verdicts), dtype=np.int64)
                certified = np.array([verdicts[i] for i in ids.tolist()], dtype=np.bool_)
                proofs[row, group.id] = RowProof(ids, certified)
    return proofs


def _merge_verdicts(found: Iterable[Found]) -> dict[int, bool]:
    """Data-set index -> whether any of the records proves the sample robust."""
    verdicts: dict[int, bool] = {}
    for one in found:
        if one.arrays.certified is not None:
            ids = one.record.identity.data.ids().tolist()
            for sample, proved in zip(ids, one.arrays.certified.tolist(), strict=True):
                verdicts[sample] = verdicts.get(sample, False) or proved
    return verdicts


def describe(data: DataId) -> str:
    """Name and split, with what must stand beside figures on it."""
    note = NOTES.get(data.name)
    return f"{data.name} {data.split}{f' ({note})' if note else ''}"
