"""What the lines of pictures show, as numbers: accuracy over radii, success over queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.standing.document import AttackColumn
from robustbench_lite.leaderboard.standing.sheet import Sheet

_MOST_POINTS = 31
"""Of a line."""
_FEW = 10
"""Queries up to which an attack, on the middle row, has no curve: one step shows nothing."""

Curves = dict[int, dict[float, float]]
"""Row -> radius -> accuracy."""


def radii_series(sheet: Sheet) -> dict[tuple[str, str], Curves]:
    """Norm and attack -> what its records say, over radii."""
    series: dict[tuple[str, str], Curves] = {}
    for row, found in sheet.records():
        identity = found.record.identity
        if identity.threat.goal != "untargeted":
            continue
        rows = series.setdefault((identity.threat.norm, words.attack(identity)), {})
        points = rows.setdefault(row, {0.0: found.arrays.clean_accuracy})
        if identity.threat.eps is None:
            points.update(_points(found))
        else:
            points[identity.threat.eps] = found.arrays.robust_accuracy
    return series


def has_points(rows: Curves) -> bool:
    """There is more to see than one radius and the clean accuracy."""
    return max(map(len, rows.values())) > 2


def _points(found: Found) -> dict[float, float]:
    """Radius -> share of the samples with no adversarial nearer than that, thinned out."""
    distance = np.where(np.isnan(found.arrays.distance), np.inf, found.arrays.distance)
    radii = np.unique(distance[np.isfinite(distance) & (distance > 0)])
    if len(radii):
        places = np.linspace(0, len(radii) - 1, min(len(radii), _MOST_POINTS))
        radii = radii[np.unique(places).astype(int)]
    right = found.arrays.clean_correct
    return {float(radius): float((right & (distance > radius)).mean()) for radius in radii}


def has_curve(sheet: Sheet, column: AttackColumn) -> bool:
    """There is more to see of an attack than one step."""
    most = [_most_queries(found) for (_, name), found in sheet.cells.items() if name == column.id]
    return bool(most) and float(np.median(most)) > _FEW


def _most_queries(found: Found) -> int:
    arrays = found.arrays
    return int((arrays.forward_queries.astype(np.int64) + arrays.backward_queries).max(initial=0))


class QueryCurve(NamedTuple):
    """Points of a line."""

    xs: Sequence[float]
    ys: Sequence[float]


def success_over_queries(found: Found) -> QueryCurve:
    """Over queries, the share of the attacked samples that were broken within so many."""
    arrays = found.arrays
    spent = (arrays.forward_queries + arrays.backward_queries).astype(np.int64)
    attacked = max(1, int(arrays.clean_correct.sum()))
    steps = np.geomspace(1, max(_most_queries(found), 2), _MOST_POINTS)
    at: NDArray[np.int64] = np.unique(steps.round().astype(np.int64))
    hits = np.searchsorted(np.sort(spent[arrays.broken]), at, side="right")
    rises = np.flatnonzero(np.diff(hits, prepend=-1))
    kept = np.union1d(rises, [len(at) - 1])  # where the line rises, and its end
    return QueryCurve(at[kept].tolist(), (100 * hits[kept] / attacked).tolist())
