"""What goes into a search, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_lite.rows.rows import Rows


@dataclass(frozen=True)
class Task:
    """What is searched: N samples."""

    x: Tensor
    """Clean images, (N, C, H, W)."""
    y: Tensor
    """Their classes, (N,)."""
    target: Tensor
    """The classes to reach, (N,); -1 for none."""
    index: Tensor
    """Their places in the data set, (N,)."""
    positions: Tensor | None = None
    """Rows to search, (M,) int64; all when None."""
    start: Tensor | None = None
    """Points of the ball at which the searches begin, (N, C, H, W); where the attack likes if None.
    """
    spent: Tensor | None = None
    """Queries that count against each row's budget already, (N,) int64."""

    first_restart: int = 0
    """Number of the restart that every row begins with: another one draws other numbers."""
    keep_lowest: bool = False
    """Somebody wants to know the point nearest to success of each row."""

    @property
    def order(self) -> list[int] | range:
        """The rows to search, in the order in which they enter."""
        return range(len(self.y)) if self.positions is None else self.positions.tolist()


@dataclass(frozen=True)
class SearchOutcome(Rows):
    """Rows that left the engine. What was found is still to be judged."""

    position: Tensor
    """Row of the task, (M,)."""
    found: Tensor
    """An adversarial was found, (M,) bool."""
    unasked: Tensor
    """Instead there is a last point that the model was not asked about, (M,) bool.

    Whether it succeeds is the judge's to say.
    """
    x_adv: Tensor
    """The adversarial or the last point, or the clean image where there is none, (M, C, H, W)."""
    size: Tensor
    """Its distance in the norm of the threat, (M,); inf where there is none."""
    forward: Tensor
    """Model evaluations that the row cost, (M,) int64."""
    backward: Tensor
    """Gradient evaluations that it cost, (M,) int64."""
    lowest: Tensor
    """The point in the ball nearest to success, (M, C, H, W); (M, 0) where nobody asked for it."""
    lowest_margin: Tensor
    """How far that point is from success, (M,); inf where there is none."""

    @property
    def claimed(self) -> Tensor:
        """What the judge has to look at, (M,) bool."""
        return self.found | self.unasked
