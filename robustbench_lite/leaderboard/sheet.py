"""What a table shows, whether it comes from a board or from somebody's own run: rows, columns, and the records in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite import registry
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.results import Filled, Found
from robustbench_lite.leaderboard.slots import CURVE
from robustbench_lite.records.cell import DataId, Identity
from robustbench_lite.sources.datasets import NOTES

REPORT_ALPHA = 0.05


class Column(NamedTuple):
    """An attack of a threat model."""

    id: str
    heading: str
    attack: str
    """With the hyper-parameters that are not at their default."""
    n: int
    query_budget: int | None


class Group(NamedTuple):
    """A threat model with its columns."""

    id: str
    title: str
    norm: str
    eps: str | None
    goal: str
    columns: tuple[Column, ...]


class Row(NamedTuple):
    model: str
    defense: str


class Proof(NamedTuple):
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
    groups: list[Group]
    cells: Mapping[tuple[int, str], Found]
    """By row and column id."""
    missing: Mapping[tuple[int, str], str]
    """Why a cell has no record."""
    others: list[tuple[int, Found]] = field(default_factory=list)
    """Records beside the table, with their rows: points of the accuracy-against-eps picture."""
    proofs: Mapping[tuple[int, str], Proof] = field(default_factory=dict)
    """By row and group id."""

    def records(self) -> Iterator[tuple[int, Found]]:
        """Every record with its row, each once."""
        seen: set[str] = set()
        for row, found in [*((row, found) for (row, _), found in sorted(self.cells.items())), *self.others]:
            if found.record.key not in seen:
                seen.add(found.record.key)
                yield row, found

    def column_cells(self, row: int, group: Group) -> list[tuple[Column, Found]]:
        """The measured cells of a row under one threat model."""
        return [(column, self.cells[row, column.id]) for column in group.columns if (row, column.id) in self.cells]


def of_board(board: Board, filled: Filled) -> Sheet:
    """The sheet of a board whose slots were looked for on disk."""
    by_column: dict[str, dict[int, int]] = {}
    for number, slot in enumerate(filled.slots):
        by_column.setdefault(slot.column, {})[slot.row] = number
    cells, missing = {}, {}
    for column, numbers in by_column.items():
        for row, number in numbers.items():
            found = filled.found[number]
            if found is None:
                missing[row, column] = filled.reason(number)
            elif not column.startswith(f"{CURVE}/"):
                cells[row, column] = found
    groups = []
    for threat in board.threats:
        columns = []
        for trial in threat.attacks:
            column = f"{threat.id}/{trial.heading}"
            slot = filled.slots[by_column[column][0]]
            columns.append(Column(column, trial.heading, trial.attack, slot.n, trial.query_budget))
        title = threat.title or _threat_title(threat.norm, threat.eps, threat.goal)
        groups.append(
            Group(threat.id, title, threat.norm, None if threat.eps == "none" else threat.eps, threat.goal, tuple(columns))
        )
    first = {slot.row: slot.expected for slot in reversed(filled.slots)}
    return Sheet(
        name=board.name, title=board.title, about=board.about, data=_described(first[0].data), seed=board.seed,
        ranking=board.ranking.threat, alpha=board.ranking.alpha,
        rows=[Row(first[row].model.name, _label(first[row])) for row in sorted(first)], groups=groups, cells=cells,
        missing=missing,
        others=[
            (slot.row, found) for slot, found in zip(filled.slots, filled.found, strict=True)
            if found is not None and slot.column.startswith(CURVE)
        ],
        proofs=_proofs(groups, cells),
    )  # fmt: skip


def of_records(found: Sequence[Found], name: str, title: str) -> Sheet:
    """The sheet of any records, of one data set: networks and defenses down, threat models and attacks across."""
    found = sorted(found, key=lambda f: f.record.key)
    rows = sorted({_row_key(f.record.identity) for f in found})
    groups: dict[tuple[str, str, str], dict[tuple[str, int, int | None], Column]] = {}
    cells: dict[tuple[int, str], Found] = {}
    for item in found:
        identity = item.record.identity
        threat = (identity.threat.norm, _eps_text(identity), identity.threat.goal)
        attack, n = short_attack(identity), len(identity.data.ids())
        columns = groups.setdefault(threat, {})
        fresh = Column(f"{'/'.join(threat)}/{len(columns)}", attack.partition(" ")[0], attack, n, identity.query_budget)
        column = columns.setdefault((attack, n, identity.query_budget), fresh)
        cells.setdefault((rows.index(_row_key(identity)), column.id), item)
    ordered = [
        Group(
            "/".join(threat),
            _threat_title(*threat),
            threat[0],
            None if threat[1] == "none" else threat[1],
            threat[2],
            tuple(_told_apart(columns.values())),
        )
        for threat, columns in sorted(groups.items())
    ]
    fullest = max(ordered, key=lambda group: len(group.columns)) if ordered else None
    identity = found[0].record.identity
    return Sheet(
        name=name, title=title, about="", data=_described(identity.data), seed=None,
        ranking=fullest.id if fullest else "", alpha=REPORT_ALPHA,
        rows=[Row(model, defense) for model, defense, _ in rows], groups=ordered, cells=cells,
        missing={
            (row, column.id): "not measured"
            for row in range(len(rows)) for group in ordered for column in group.columns if (row, column.id) not in cells
        },
        proofs=_proofs(ordered, cells),
    )  # fmt: skip


def short_attack(identity: Identity) -> str:
    """The attack with the hyper-parameters that are not at their default; with all of them where it is not installed."""
    attack = _short("attack", identity.attack.name, identity.attack.parameters)
    return attack if identity.adaptive is None else f"{attack} (not adaptive)"


def _label(identity: Identity) -> str:
    parts = [_short("defense", part.name, part.parameters) for part in identity.defense.parts or [identity.defense]]
    return (" + " if any(" " in part for part in parts) else "+").join(parts)


def _short(kind: registry.Kind, name: str, parameters: Mapping[str, object]) -> str:
    try:
        defaults = (
            {f.name: f.default for f in registry.hyperparameters(registry.load(kind, name))}
            if name in registry.names(kind)
            else {}
        )
    except ImportError:
        defaults = {}
    told = [(key, value) for key, value in sorted(parameters.items()) if key not in defaults or defaults[key] != value]
    texts = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in told)
    return " ".join([name, *texts])


def _row_key(identity: Identity) -> tuple[str, str, str]:
    return identity.model.name, _label(identity), identity.model.weights_sha256


def _eps_text(identity: Identity) -> str:
    threat = identity.threat
    return "none" if threat.eps is None else threat.eps_written or f"{threat.eps:g}"


def _threat_title(norm: str, eps: str, goal: str) -> str:
    radius = "of any size" if eps == "none" else f"{eps} pixels" if norm == "l0" else eps
    return f"{norm.capitalize()} {radius}{'' if goal == 'untargeted' else f', {goal}'}"


def _told_apart(columns: Iterable[Column]) -> list[Column]:
    """Columns by attack; the heading of those that share a name is the whole attack."""
    ordered = sorted(columns, key=lambda column: (column.attack, column.n))
    names = [column.heading for column in ordered]
    return [c._replace(heading=c.attack) if names.count(c.heading) > 1 else c for c in ordered]


def _proofs(groups: Sequence[Group], cells: Mapping[tuple[int, str], Found]) -> dict[tuple[int, str], Proof]:
    """What the records of a row prove under a threat model, together: each certificate is sound by itself."""
    proofs: dict[tuple[int, str], Proof] = {}
    for group in groups:
        names = {column.id for column in group.columns}
        for row in sorted({row for row, column in cells if column in names}):
            verdicts: dict[int, bool] = {}
            for column in group.columns:
                found = cells.get((row, column.id))
                if found is not None and found.arrays.certified is not None:
                    for sample, proved in zip(
                        found.record.identity.data.ids().tolist(), found.arrays.certified.tolist(), strict=True
                    ):
                        verdicts[sample] = verdicts.get(sample, False) or proved
            if verdicts:
                ids = np.array(sorted(verdicts), dtype=np.int64)
                proofs[row, group.id] = Proof(ids, np.array([verdicts[i] for i in ids.tolist()], dtype=np.bool_))
    return proofs


def _described(data: DataId) -> str:
    """Name and split, with what must stand beside figures on it."""
    note = NOTES.get(data.name)
    return f"{data.name} {data.split}{f' ({note})' if note else ''}"
