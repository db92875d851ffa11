"""What is left of a row after every attack of a threat model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.slots import positions
from robustbench_lite.leaderboard.standing.document import ThreatTable
from robustbench_lite.leaderboard.standing.sheet import Sheet


class Worst(NamedTuple):
    """What is left of the samples of a row after every attack that met all of them.

    The samples are (N,) data-set indices.
    """

    ids: NDArray[np.int64]
    robust: NDArray[np.bool_]
    by: tuple[str, ...]
    """Headings of the attacks."""
    elsewhere: Mapping[str, int]
    """Heading of an attack that met fewer samples -> those that it broke and these left."""


WorstCases = Mapping[tuple[int, str], Worst | str]
"""Row and threat model -> what is left; text says why nothing can be said."""


def worst_cases(sheet: Sheet) -> WorstCases:
    """Of every row under every threat model."""
    return {
        (row, group.id): worst_case(sheet, row, group)
        for row in range(len(sheet.rows))
        for group in sheet.groups
    }


def worst_case(sheet: Sheet, row: int, group: ThreatTable) -> Worst | str:
    """Call a sample robust if no attack that met all samples broke it.

    One number mixes no sets of samples: an attack that met fewer has a column of its own, and what
    it broke beyond is told apart.

    Returns:
        Text says why nothing can be said.
    """
    for column in group.attacks:
        if (row, column.id) not in sheet.cells:
            return f"{column.heading}: {sheet.missing.get((row, column.id), 'not measured')}"
    cells = sheet.column_cells(row, group)
    ids = np.unique(np.concatenate([found.record.identity.data.ids() for _, found in cells]))
    most = max(found.arrays.n for _, found in cells)
    if most < len(ids):
        return "no attack met all samples"
    robust = np.ones(most, dtype=np.bool_)
    whole = [cell for cell in cells if cell.found.arrays.n == most]
    for _, found in whole:
        robust[positions(found.record.identity.data.ids(), ids)] &= found.arrays.robust
    elsewhere = {}
    for column, found in cells:
        at = positions(found.record.identity.data.ids(), ids)
        more = int((robust[at] & found.arrays.broken).sum())
        if more:
            elsewhere[column.heading] = more
    return Worst(ids, robust, tuple(column.heading for column, _ in whole), elsewhere)
