"""The cells that a board calls for, and which record fills which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_lite import inputs
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.entrants import Named, named
from robustbench_lite.records.cell import DataId, Identity, ranges
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.threat import ThreatModel

CURVE = "curve"
"""What the columns of cells beside the table begin with."""

#: Not known without the data, or (the structure as this torch prints it, how eps was written) no part of what was asked.
_UNKNOWN = {"data.fingerprint", "model.architecture_sha256", "threat.eps_written", "key", "digest"}
_UNKNOWN_PARTS = ("fit_data", "certifier")


Fields = dict[str, Any]


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
        return len(self.expected.data.ids())


def expand(board: Board, root: Path, trust: Trust = Trust.REGISTERED) -> list[Slot]:
    """Every cell of ``board``, attack by attack, so that every so-many-th of them is a fair share of the work.

    A board is a file: attacks and defenses that it names and that are not registered are code, which needs ``trust``.
    """
    rows = [named(entrant, board, root, trust) for entrant in board.rows]
    return [slot for column in _columns(board) for slot in _column(board, rows, trust, *column)]


def _columns(board: Board) -> Iterator[tuple[str, str, str, str, str, int | None, int | None]]:
    for threat in board.threats:
        for trial in threat.attacks:
            column = f"{threat.id}/{trial.heading}"
            yield column, threat.norm, threat.eps, threat.goal, trial.attack, trial.n, trial.query_budget
    for curve in board.curves:
        for eps in curve.eps:
            yield f"{CURVE}/{curve.norm}/{eps}/{curve.attack}", curve.norm, eps, "untargeted", curve.attack, curve.n, None


def _column(
    board: Board,
    rows: list[Named],
    trust: Trust,
    column: str,
    norm: str,
    eps: str,
    goal: str,
    spec: str,
    n: int | None,
    budget: int | None,
) -> Iterator[Slot]:
    attack, threat = inputs.attack_from(spec, trust), ThreatModel.parse(norm, eps, goal)
    inputs.check_fit(attack, threat)
    data = board.data
    split = f"{data.split}[:1000]" if data.bundled else data.split
    samples = DataId(name=data.name, split=split, fingerprint="", id_ranges=ranges(data.sample_ids(n)))
    for number, row in enumerate(rows):
        expected = Identity(
            model=row.model, defense=row.defense, attack=inputs.plugin_id("attack", attack),
            threat=inputs.threat_id(threat), data=samples, seed=board.seed, query_budget=budget,
        )  # fmt: skip
        label = f"{row.model.name} ({row.label}) x {inputs.short_label('attack', attack)}, {threat.norm.name} {eps}"
        yield Slot(number, column, label, attack, threat, row.missing, expected)


def differences(expected: Identity, found: Identity) -> list[str]:
    """Where ``found`` is not what was called for: ``attack.parameters.steps: the board asks for 50, the record has 40``."""
    return flat_differences(flat(expected), flat(found))


def flat_differences(asked: Fields, there: Fields) -> list[str]:
    """:func:`differences` of what :func:`flat` gave: comparing many with many, each is flattened once."""
    asked = dict(asked)
    if str(asked["threat.goal"]).startswith("class:") and _within(there["data.id_ranges"], asked["data.id_ranges"]):
        asked["data.id_ranges"] = there["data.id_ranges"]  # samples of the target class itself are no part of the cell
    if not asked["model.weights_sha256"]:
        asked["model.weights_sha256"] = there["model.weights_sha256"]
    for field, value in asked.items():
        if value is None and field.startswith("defense.") and field in there:
            asked[field] = there[field]  # a defense may set it on training images
    if asked == there:
        return []
    return [
        f"{field}: the board asks for {_shown(asked.get(field))}, the record has {_shown(there.get(field))}"
        for field in sorted(asked.keys() | there.keys())
        if asked.get(field) != there.get(field)
    ]


def _within(inner: list[list[int]], outer: list[list[int]]) -> bool:
    samples, among = ({i for low, high in ranges for i in range(low, high)} for ranges in (inner, outer))
    return samples <= among


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


def _shown(value: Any) -> str:
    return f"{value[:16]}..." if isinstance(value, str) and len(value) > 40 else repr(value)


def positions(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` stands in ``among``."""
    order = np.argsort(among, kind="stable")
    found: np.ndarray = order[np.searchsorted(among, ids, sorter=order)]
    return found
