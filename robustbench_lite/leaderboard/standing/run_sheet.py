"""The sheet of somebody's own run: rows and columns follow from the records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.standing.document import AttackColumn, ThreatTable
from robustbench_lite.leaderboard.standing.sheet import (
    ANY_SIZE,
    Row,
    Sheet,
    describe,
    join_proofs,
    suites_among,
)
from robustbench_lite.records.identity import Identity

_ALPHA = 0.05


class RowKey(NamedTuple):
    """What tells the rows of somebody's own run apart."""

    model: str
    defense: str
    weights_sha256: str

    @classmethod
    def of(cls, identity: Identity) -> RowKey:
        """That of a cell."""
        model = identity.model
        return cls(model.name, words.defense(identity), model.weights_sha256)


class ThreatKey(NamedTuple):
    """What tells its groups apart."""

    norm: str
    eps: str
    goal: str

    @classmethod
    def of(cls, identity: Identity) -> ThreatKey:
        """That of a cell."""
        threat = identity.threat
        return cls(threat.norm, threat.radius or ANY_SIZE, threat.goal)


class ColumnKey(NamedTuple):
    """What tells the columns of a group apart."""

    attack: str
    n: int
    query_budget: int | None

    @classmethod
    def of(cls, identity: Identity) -> ColumnKey:
        """That of a cell."""
        return cls(words.attack(identity), len(identity.data.ids()), identity.query_budget)


Columns = dict[ThreatKey, dict[ColumnKey, AttackColumn]]


def of_records(found: Sequence[Found], name: str, title: str) -> Sheet:
    """The sheet of any records, of one data set.

    Networks and defenses go down, threat models and attacks across.
    """
    found = sorted(found, key=lambda f: f.record.key)
    identities = [f.record.identity for f in found]
    rows = sorted({RowKey.of(identity) for identity in identities})
    columns: Columns = {}
    cells: dict[tuple[int, str], Found] = {}
    for item, identity in zip(found, identities, strict=True):
        column = _column_of(columns, identity)
        cells.setdefault((rows.index(RowKey.of(identity)), column.id), item)
    groups = [_table(threat, columns[threat].values()) for threat in sorted(columns)]
    names = [column.id for group in groups for column in group.attacks]
    places = [(row, name) for row in range(len(rows)) for name in names]
    fullest = max(groups, key=lambda group: len(group.attacks)) if groups else None
    return Sheet(
        name=name,
        title=title,
        about="",
        data=describe(identities[0].data),
        seed=None,
        ranking=fullest.id if fullest else "",
        alpha=_ALPHA,
        rows=[Row(row.model, row.defense) for row in rows],
        groups=groups,
        cells=cells,
        missing={place: "not measured" for place in places if place not in cells},
        proofs=join_proofs(groups, cells),
    )


def _column_of(columns: Columns, identity: Identity) -> AttackColumn:
    """The column of a cell, which is added to ``columns`` where it is not there yet."""
    threat = ThreatKey.of(identity)
    key = ColumnKey.of(identity)
    known = columns.setdefault(threat, {})
    heading = key.attack.partition(" ")[0]
    fresh = AttackColumn(id=f"{'/'.join(threat)}/{len(known)}", heading=heading, **key._asdict())
    return known.setdefault(key, fresh)


def _table(threat: ThreatKey, columns: Iterable[AttackColumn]) -> ThreatTable:
    norm, eps, goal = threat
    radius = None if eps == ANY_SIZE else eps
    title = words.threat_title(norm, radius, goal)
    attacks = _tell_apart(columns)
    return ThreatTable(
        id="/".join(threat),
        title=title,
        norm=norm,
        eps=radius,
        goal=goal,
        attacks=attacks,
        suites=suites_among(attacks),
    )


def _tell_apart(columns: Iterable[AttackColumn]) -> list[AttackColumn]:
    """Columns by attack; the heading of those that share a name is the whole attack."""
    ordered = sorted(columns, key=lambda column: (column.attack, column.n))
    times = Counter(column.heading for column in ordered)
    return [_in_full(column) if times[column.heading] > 1 else column for column in ordered]


def _in_full(column: AttackColumn) -> AttackColumn:
    return column.model_copy(update={"heading": column.attack})
