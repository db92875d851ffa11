"""The cells that a board calls for, and which record fills which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.identity import attack_id, threat_id
from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.board import Board, Data
from robustbench_lite.leaderboard.entrants import Named, identify
from robustbench_lite.records.identity import DataId, Identity, ranges
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.threat import ThreatModel

CURVE = "curve"
"""What the columns of cells beside the table begin with."""

Fields = dict[str, Any]
"""Name of a field, such as ``attack.parameters.steps`` -> its value."""
Ranges = list[list[int]]
"""Half-open, as JSON has them."""
#: Not known without the data, or (the structure as this torch prints it, how eps was written) no
#: part of what was asked.
_UNKNOWN = {
    "data.fingerprint",
    "model.architecture_sha256",
    "threat.eps_written",
    "key",
    "digest",
}
_UNKNOWN_PARTS = ("fit_data", "certifier")


class Asked(NamedTuple):
    """A column of a board: what is asked of every row."""

    column: str
    attack: Attack
    threat: ThreatModel
    radius: str
    """As the board writes it."""
    samples: DataId
    """Without the fingerprint, which only the data can tell."""
    query_budget: int | None


@dataclass(frozen=True)
class Slot:
    """One cell of a board, measured or not."""

    row: int
    column: str
    """``<threat id>/<heading>``, or ``curve/<norm>/<eps>/<attack>``."""
    label: str
    """``defense x attack`` for messages."""
    attack: Attack
    threat: ThreatModel
    missing: str
    """Why it cannot be measured, if so."""
    expected: Identity
    """What the record must say, but for what only the data can tell."""

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.expected.data.ids())

    @property
    def on_curve(self) -> bool:
        """The cell stands beside the table: a point of the accuracy-against-eps picture."""
        return self.column.startswith(f"{CURVE}/")


def expand(board: Board, root: Path, trust: Trust = Trust.REGISTERED) -> list[Slot]:
    """Every cell of ``board``, attack by attack.

    So every so-many-th of them is a fair share of the work. A board is a file: attacks and defenses
    that it names and that are not registered are code, which needs ``trust``.
    """
    rows = [identify(entrant, board, root, trust) for entrant in board.rows]
    slots: list[Slot] = []
    for asked in _columns(board, trust):
        inputs.check_fit(asked.attack, asked.threat)
        slots += [_slot(board, asked, number, row) for number, row in enumerate(rows)]
    return slots


def _columns(board: Board, trust: Trust) -> Iterator[Asked]:
    for threat in board.threats:
        for trial in threat.attacks:
            yield Asked(
                column=f"{threat.id}/{trial.heading}",
                attack=inputs.attack_from(trial.attack, trust),
                threat=ThreatModel.parse(threat.norm, threat.eps, threat.goal),
                radius=threat.eps,
                samples=_samples(board.data, trial.n),
                query_budget=trial.query_budget,
            )
    for curve in board.curves:
        for eps in curve.eps:
            yield Asked(
                column=f"{CURVE}/{curve.norm}/{eps}/{curve.attack}",
                attack=inputs.attack_from(curve.attack, trust),
                threat=ThreatModel.parse(curve.norm, eps, "untargeted"),
                radius=eps,
                samples=_samples(board.data, curve.n),
                query_budget=None,
            )


def _samples(data: Data, n: int | None) -> DataId:
    """The first ``n`` samples of a board, or all."""
    split = f"{data.split}[:1000]" if data.bundled else data.split
    return DataId(name=data.name, split=split, fingerprint="", id_ranges=ranges(data.sample_ids(n)))


def _slot(board: Board, asked: Asked, number: int, row: Named) -> Slot:
    attack = asked.attack
    threat = asked.threat
    expected = Identity(
        model=row.model,
        defense=row.defense,
        attack=attack_id(attack, threat),
        threat=threat_id(threat),
        data=asked.samples,
        seed=board.seed,
        query_budget=asked.query_budget,
    )
    entrant = words.entrant(row.model.name, words.defense(expected))
    label = f"{entrant} x {words.attack(expected)}, {threat.norm.name} {asked.radius}"
    return Slot(number, asked.column, label, attack, threat, row.missing, expected)


def differences(expected: Identity, found: Identity) -> list[str]:
    """Where ``found`` is not what was called for, a line for each field.

    As in ``attack.parameters.steps: the board asks for 50, the record has 40``.
    """
    return flat_differences(flat(expected), flat(found))


def flat_differences(asked: Fields, there: Fields) -> list[str]:
    """:func:`differences` of what :func:`flat` gave.

    Where many are compared with many, each is flattened once.
    """
    asked = dict(asked)
    one_class = str(asked["threat.goal"]).startswith("class:")
    if one_class and _is_within(there["data.id_ranges"], asked["data.id_ranges"]):
        # Samples of the target class itself are no part of the cell.
        asked["data.id_ranges"] = there["data.id_ranges"]
    if not asked["model.weights_sha256"]:
        asked["model.weights_sha256"] = there["model.weights_sha256"]
    for field, value in asked.items():
        if value is None and field.startswith("defense.") and field in there:
            asked[field] = there[field]  # a defense may set it on training images
    if asked == there:
        return []
    lines = []
    for field in sorted(asked.keys() | there.keys()):
        wanted = asked.get(field)
        found = there.get(field)
        if wanted != found:
            shown = f"the board asks for {_show_value(wanted)}, the record has {_show_value(found)}"
            lines.append(f"{field}: {shown}")
    return lines


def _is_within(inner: Ranges, outer: Ranges) -> bool:
    return _members(inner) <= _members(outer)


def _members(ranges: Ranges) -> set[int]:
    return {sample for low, high in ranges for sample in range(low, high)}


def flat(identity: Identity) -> Fields:
    """Field -> value, of the fields that are known without the data."""
    values: Fields = {}

    def walk(prefix: str, value: Any) -> None:
        parts = value if isinstance(value, dict) else {}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            parts = {str(number): part for number, part in enumerate(value)}
        if parts:
            for key, inner in parts.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif prefix not in _UNKNOWN and not prefix.startswith(_UNKNOWN_PARTS):
            values[prefix] = value

    walk("", identity.model_dump(mode="json"))
    return values


def _show_value(value: Any) -> str:
    return f"{value[:16]}..." if isinstance(value, str) and len(value) > 40 else repr(value)


def positions(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` stands in ``among``."""
    order = np.argsort(among, kind="stable")
    found: np.ndarray = order[np.searchsorted(among, ids, sorter=order)]
    return found
