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
    """What is left of the samples of a row after every attack of a threat model.

    The samples are (N,) data-set indices.
    """

    ids: NDArray[np.int64]
    robust: NDArray[np.bool_]
    common: NDArray[np.bool_]
    """Which of them every attack was run on, (N,)."""
    by: tuple[str, ...]
    """Headings of the attacks."""


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
    """Call a sample robust if no attack that was run on it broke it.

    Attacks with fewer samples say nothing of the others, in every row alike.

    Returns:
        Text says why nothing can be said.
    """
    for column in group.attacks:
        if (row, column.id) not in sheet.cells:
            return f"{column.heading}: {sheet.missing.get((row, column.id), 'not measured')}"
    cells = sheet.column_cells(row, group)
    ids = np.unique(np.concatenate([found.record.identity.data.ids() for _, found in cells]))
    robust = np.ones(len(ids), dtype=np.bool_)
    times = np.zeros(len(ids), dtype=np.int64)
    for _, found in cells:
        at = positions(found.record.identity.data.ids(), ids)
        robust[at] &= found.arrays.robust
        times[at] += 1
    return Worst(ids, robust, times == len(cells), tuple(column.heading for column, _ in cells))
