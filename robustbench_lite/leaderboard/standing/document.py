"""What the tables of a board say, as ``tables/<board>.json`` publishes it.

Every other format is rendered from this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from pydantic import Field

from robustbench_lite.leaderboard.standing.ranking import RankRange
from robustbench_lite.leaderboard.words import entrant
from robustbench_lite.records.identity import DataId, PluginId
from robustbench_lite.records.schema import Strict
from robustbench_lite.records.statistics import WilsonInterval, wilson

SCHEMA_VERSION = 1
_DIGITS = 6
"""Of fractions: more than any table shows, fewer than the last bits that machines may differ in."""


class Missing(Strict):
    """What stands in place of a value that was not measured."""

    missing: str
    """Why."""


class Counted(Strict):
    """Base of shares: so many right of ``n`` samples, with the 95 % Wilson interval."""

    right: int
    n: int
    accuracy: float
    interval: WilsonInterval

    @classmethod
    def of(cls, right: int, n: int, **others: Any) -> Self:
        """The share of ``right`` in ``n``; ``others`` are the fields that a subclass adds."""
        low, high = wilson(right, n)
        interval = WilsonInterval(round_share(low), round_share(high))
        return cls(right=right, n=n, accuracy=round_share(right / n), interval=interval, **others)


class Share(Counted):
    """Of samples that are classified correctly, or certified."""


class WorstShare(Counted):
    """Of samples that no attack of a threat model broke."""

    over: list[str]
    """Headings of the attacks."""


class MeasuredCell(Counted):
    """Of samples that are robust under one attack, with where the number is from."""

    median_distance: float | None
    forward_queries: float
    backward_queries: float
    key: str
    digest: str
    record: str
    """Name of the file."""
    flags: list[str]
    attack: PluginId
    defense: PluginId
    weights_sha256: str
    samples: DataId
    command: str
    """What measures it again."""
    made_by: str
    """What has measured it."""
    created: str
    seconds: float
    device: str
    versions: dict[str, str]


class OpenRange(Strict):
    """What certificates and attacks leave open, on the ``n`` samples that have both."""

    n: int
    samples: int
    """Neither proved nor broken."""
    low: float
    high: float


class MeanQueries(Strict):
    """Passes a sample that was classified correctly, over the attacks that met all samples."""

    forward: float
    backward: float


class LastBroken(Strict):
    """The last stage of a suite that broke anything, by its attack."""

    stage: str
    broken: int


class Standing(Strict):
    """One row under one threat model."""

    worst: WorstShare | Missing
    certified: Share | Missing
    open: OpenRange | Missing
    queries: MeanQueries | Missing
    attacks: dict[str, MeasuredCell | Missing]
    """By the id of the column."""
    last: LastBroken | None = None
    """What broke last; None where no suite ran, or nothing broke."""


class RankedRow(Strict):
    """A network behind its defense."""

    rank: RankRange | None
    """None where it lacks a cell, or the rows were measured on different samples."""
    model: str
    defense: str
    clean: Share | Missing
    threats: dict[str, Standing]
    """By the id of the threat model."""
    flags: list[str]

    @property
    def name(self) -> str:
        """The network with its defense, as messages say it."""
        return entrant(self.model, self.defense)

    @property
    def is_certified(self) -> bool:
        """There is a certificate of it under some threat model."""
        return any(isinstance(standing.certified, Share) for standing in self.threats.values())


class AttackColumn(Strict):
    """An attack of a threat model."""

    id: str
    heading: str
    attack: str
    """With the hyper-parameters that are not at their default."""
    n: int
    query_budget: int | None


class ThreatTable(Strict):
    """A threat model: one table."""

    id: str
    title: str
    norm: str
    eps: str | None
    """As it was written; None where any distance counts."""
    goal: str
    attacks: list[AttackColumn]
    suites: list[str] = Field(default_factory=list)
    """Ids of those columns that are suites."""

    @property
    def whole(self) -> list[AttackColumn]:
        """The attacks that meet all samples of the table."""
        most = max(attack.n for attack in self.attacks)
        return [attack for attack in self.attacks if attack.n == most]


class RankingRule(Strict):
    """How rows are ranked: by their worst case under one threat model."""

    threat: str
    alpha: float
    """The family-wise error rate."""


class Place(NamedTuple):
    """A measured cell, and where it stands."""

    row: RankedRow
    threat: ThreatTable
    attack: AttackColumn
    cell: MeasuredCell


class Gap(NamedTuple):
    """A cell that was not measured, where it would stand, and why it was not."""

    row: RankedRow
    threat: ThreatTable
    attack: AttackColumn
    reason: str

    @property
    def where(self) -> str:
        """Row, threat model and attack."""
        return f"{self.row.name}, {self.threat.title}, {self.attack.heading}"


class Document(Strict):
    """Everything that the tables of a board say, rows in order of rank."""

    schema_version: int = SCHEMA_VERSION
    board: str
    title: str
    about: str
    data: str
    """Data set and split."""
    n: int
    seed: int | None
    ranking: RankingRule
    threats: list[ThreatTable]
    rows: list[RankedRow]

    def threat(self, name: str) -> ThreatTable | None:
        """The threat model with that id, if there is one."""
        return next((threat for threat in self.threats if threat.id == name), None)

    def measured(self) -> list[Place]:
        """Everything that was measured."""
        return [
            Place(row, threat, attack, cell)
            for row, threat, attack in self._places()
            if isinstance(cell := row.threats[threat.id].attacks[attack.id], MeasuredCell)
        ]

    def gaps(self) -> list[Gap]:
        """Everything that was not measured."""
        return [
            Gap(row, threat, attack, cell.missing)
            for row, threat, attack in self._places()
            if isinstance(cell := row.threats[threat.id].attacks[attack.id], Missing)
        ]

    def _places(self) -> Iterator[tuple[RankedRow, ThreatTable, AttackColumn]]:
        for row in self.rows:
            for threat in self.threats:
                for attack in threat.attacks:
                    yield row, threat, attack


def round_share(value: float) -> float:
    """A fraction with the digits that a document keeps; 0 for what is no number."""
    return round(value, _DIGITS) if math.isfinite(value) else 0.0
