"""What a reader must know before trusting a row: notes, and signs of masked gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite import registry
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.slots import positions
from robustbench_lite.leaderboard.standing.document import ThreatTable
from robustbench_lite.leaderboard.standing.ranking import mcnemar
from robustbench_lite.leaderboard.standing.sheet import ColumnRecord, Sheet
from robustbench_lite.leaderboard.standing.worst import Worst, WorstCases

_GRADIENT = "GRADIENT"
_ONE_STEP = "fgsm"
_CHANCE = 1 / 10
_HUGE = {"linf": 0.5}
"""Radii at which any image can be turned into grey: nothing but chance may be left."""


def flags_of(sheet: Sheet, row: int, worst: WorstCases) -> list[str]:
    """One line each, sorted."""
    flags = set(_notes(sheet, row))
    for group in sheet.groups:
        cells = sheet.column_cells(row, group)
        flags |= {f"{group.title}: {reason}" for reason in _masking(sheet, cells)}
        flags |= {f"{group.title}: {reason}" for reason in _broken_elsewhere(worst[row, group.id])}
        flags |= {
            f"{group.title}: {reason}" for reason in _contradictions(sheet, row, group, cells)
        }
    flags |= set(_over_radii(sheet, row))
    return sorted(flags)


def _notes(sheet: Sheet, row: int) -> list[str]:
    """What the records themselves say; once, if all of several say it."""
    notes = {
        f"{group.title}, {column.heading}": found.record.provenance.flags
        for group in sheet.groups
        for column, found in sheet.column_cells(row, group)
    }
    shared = set.intersection(*map(set, notes.values())) if len(notes) > 1 else set()
    said = [(where, note) for where, those in notes.items() for note in those]
    return [*shared, *(f"{where}: {note}" for where, note in said if note not in shared)]


def _masking(sheet: Sheet, cells: list[ColumnRecord]) -> list[str]:
    """An attack that sees less breaks more than one that sees all."""
    reasons = []
    strong = [cell for cell in cells if _is_strong(cell.found)]
    for weaker in cells:
        if weaker in strong:
            continue
        one_step = weaker.found.record.identity.attack.name == _ONE_STEP
        what = "one step breaks more than many" if one_step else "black box beats gradients"
        for stronger in strong:
            first, second = _common(weaker.found, stronger.found)
            if len(first) and first.sum() < second.sum() and mcnemar(first, second) < sheet.alpha:
                less = f"{weaker.column.heading} {first.mean():.1%}"
                more = f"{stronger.column.heading} {second.mean():.1%}"
                reasons.append(f"{what} ({less}, {more}): masked gradients?")
    return reasons


def _is_strong(found: Found) -> bool:
    """The attack follows gradients for more than one step."""
    return _access(found) == _GRADIENT and found.record.identity.attack.name != _ONE_STEP


def _broken_elsewhere(worst: Worst | str) -> list[str]:
    """What counts as robust here, and an attack that met fewer samples broke."""
    if isinstance(worst, str):
        return []
    return [
        f"{heading} broke {count:,} of the samples that it met and the worst case leaves"
        for heading, count in worst.elsewhere.items()
    ]


def _contradictions(
    sheet: Sheet,
    row: int,
    group: ThreatTable,
    cells: list[ColumnRecord],
) -> list[str]:
    """What is certified and broken."""
    proof = sheet.proofs.get((row, group.id))
    if proof is None:
        return []
    proved = set(proof.ids[proof.certified].tolist())
    reasons = []
    for column, found in cells:
        broken = found.record.identity.data.ids()[found.arrays.broken].tolist()
        both = sorted(proved & set(broken))
        if both:
            what = f"sample {both[0]} is certified and broken by {column.heading}"
            reasons.append(f"{what}: a bound or an attack is wrong")
    return reasons


def _over_radii(sheet: Sheet, row: int) -> list[str]:
    """Robust accuracy that rises with eps, or is above chance where nothing can be left."""
    series: dict[Series, dict[float, Found]] = {}
    for at, found in sheet.records():
        threat = found.record.identity.threat
        if at == row and threat.eps is not None and threat.goal == "untargeted":
            attack = found.record.identity.attack.label()
            key = Series(threat.norm, attack, found.arrays.n)
            series.setdefault(key, {})[threat.eps] = found
    reasons = []
    for key, points in sorted(series.items()):
        reasons += [*_rises(key, points, sheet.alpha), *_too_much_left(key, points)]
    return reasons


class Series(NamedTuple):
    """Cells that differ in their radius alone."""

    norm: str
    attack: str
    n: int


def _rises(series: Series, points: Mapping[float, Found], alpha: float) -> Iterator[str]:
    for low, high in pairwise(sorted(points)):
        first, second = _common(points[high], points[low])
        if first.sum() > second.sum() and mcnemar(first, second) < alpha:
            what = f"leaves more at eps {high:g} than at {low:g}: masked gradients?"
            yield f"{series.norm}: {series.attack} {what}"


def _too_much_left(series: Series, points: Mapping[float, Found]) -> Iterator[str]:
    for eps, found in sorted(points.items()):
        if eps >= _HUGE.get(series.norm, math.inf) and found.arrays.interval.low > _CHANCE:
            left = f"{found.arrays.robust_accuracy:.1%} left at eps {eps:g}"
            yield f"{series.norm}: {left} under {series.attack}: the attack is too weak"


def _access(found: Found) -> str | None:
    name = found.record.identity.attack.name
    if name not in registry.names(registry.kind_of("attack", name)):
        return None
    try:
        return str(registry.load("attack", name).access.name)
    except ImportError:
        return None


class Common(NamedTuple):
    """The verdicts of two cells on the samples that both have."""

    first: NDArray[np.bool_]
    second: NDArray[np.bool_]


def _common(first: Found, second: Found) -> Common:
    a = first.record.identity.data.ids()
    b = second.record.identity.data.ids()
    ids = np.intersect1d(a, b)
    return Common(first.arrays.robust[positions(ids, a)], second.arrays.robust[positions(ids, b)])
