"""What a run tells while it is at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """What ``on_progress`` hears, a few times a second."""

    cell: int
    """Number of the cell in work, from 0."""
    cells: int
    rows: float
    """Samples' worth of work done in it."""
    of: int
    label: str
    before: str = ""
    """What the rows are steps of, if it comes before the search: ``fit`` or ``certify``."""


class Teller(NamedTuple):
    """Hands on what happens in one cell."""

    listener: Callable[[Progress], None] | None
    cell: int
    cells: int
    of: int
    label: str

    def rows(self, rows: float) -> None:
        """So many samples' worth of work is done."""
        if self.listener is not None:
            self.listener(Progress(self.cell, self.cells, rows, self.of, self.label))

    def steps(self, step: float, of: int, before: str = "fit") -> None:
        """So many steps of what comes before the search."""
        if self.listener is not None:
            self.listener(
                Progress(self.cell, self.cells, step, of, f"{self.label}: {before}", before)
            )
