"""What the answers of a step claim: the points that reach the goal, and the nearest of each row.

Where looks at values are free, only claims are worked on. Elsewhere every point is, and those that
claim nothing are infinitely far away. Either way the same points come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search.attack import Answer, Query
from robustbench_lite.search.oracle import Cost
from robustbench_lite.search.slots import Slots
from robustbench_lite.threat import ThreatModel


class Step(NamedTuple):
    """The points that B rows asked about, P each, one after the other."""

    points: Tensor
    """(B P, C, H, W)."""
    hits: Tensor
    """The point counts and reaches the goal, (B P,) bool."""
    per_row: int
    """P."""

    @classmethod
    def of(cls, query: Query, answer: Answer, cost: Cost) -> Step:
        """The points of ``query``, with what ``answer`` says of those that were paid for."""
        hits = answer.success.reshape(cost.valid.shape)
        hits = hits if cost.whole else hits & cost.valid
        points = query.points.reshape(-1, *query.points.shape[-3:])
        return cls(points, hits.flatten(), cost.valid.shape[1])


class Claims(NamedTuple):
    """N points of a step, in its order, that may be what their rows look for."""

    number: Tensor
    """Which points of the step, (N,)."""
    row: Tensor
    """(N,)."""
    size: Tensor
    """Distance from the clean image, (N,); inf where the point claims nothing or leaves the ball."""
    excess: Tensor
    """By how much it leaves the ball or the bounds, (N,); -inf where it claims nothing."""


class Nearest(NamedTuple):
    """The nearest claim of each of M rows."""

    row: Tensor
    """(M,), rising."""
    points: Tensor
    """(M, C, H, W)."""
    size: Tensor
    """(M,); inf where no claim of the row lies in the ball."""


class Looks(ABC):
    """A way to work on claims. Both give the same numbers; ``looks_for`` knows which of them saves work where."""

    free: ClassVar[bool]

    @abstractmethod
    def claims(
        self,
        step: Step,
        slots: Slots,
        threat: ThreatModel,
        only_nearer: bool,
    ) -> Claims | None:
        """What ``step`` claims; ``None`` where that is nothing for sure.

        With ``only_nearer`` a claim that is no nearer than what its row has may be left out.
        """

    @abstractmethod
    def nearest(self, claims: Claims, step: Step) -> Nearest:
        """The nearest claim of each row that makes some."""

    @abstractmethod
    def time_to_settle(self, done: Tensor, step: int, waiting: bool) -> bool:
        """Whether rows that are ``done`` (B,) shall leave after ``step`` steps.

        ``waiting`` says that there are others to enter.
        """


class FreeLooks(Looks):
    """Looks, and works on claims alone."""

    free = True

    def claims(
        self,
        step: Step,
        slots: Slots,
        threat: ThreatModel,
        only_nearer: bool,
    ) -> Claims | None:
        number = step.hits.nonzero().squeeze(1)
        if not len(number):
            return None
        row = _rows(number, step)
        points, clean = step.points.index_select(0, number), slots.x.index_select(0, row)
        size = threat.norm.size(points - clean)
        if only_nearer:
            nearer = (size < slots.best_size[row]).nonzero().squeeze(1)
            if not len(nearer):
                return None
            number, row, size = number[nearer], row[nearer], size[nearer]
            points, clean = points.index_select(0, nearer), clean.index_select(0, nearer)
        excess = threat.excess(points, clean, size)
        return Claims(number, row, _inside(size, excess), excess)

    def nearest(self, claims: Claims, step: Step) -> Nearest:
        if step.per_row == 1:
            return Nearest(claims.row, step.points.index_select(0, claims.number), claims.size)
        row, place = torch.unique_consecutive(claims.row, return_inverse=True)
        return _nearest(claims, step, row, place)

    def time_to_settle(self, done: Tensor, step: int, waiting: bool) -> bool:
        count = int(done.sum())
        # A few empty slots cost less than entering rows one by one.
        return count > 0 and (not waiting or count * 16 >= len(done))


class NoLooks(Looks):
    """Works on every point, and lets masks sort out what it finds: a look would wait for the device."""

    free = False
    #: Looks at which rows are done only every so many steps.
    SETTLE_EVERY = 4

    def claims(
        self,
        step: Step,
        slots: Slots,
        threat: ThreatModel,
        only_nearer: bool,
    ) -> Claims | None:
        number = torch.arange(len(step.hits), device=step.hits.device)
        row = _rows(number, step)
        clean = slots.x.index_select(0, row)
        size = threat.norm.size(step.points - clean)
        excess = threat.excess(step.points, clean, size).masked_fill(~step.hits, float("-inf"))
        size = size.masked_fill(~step.hits, float("inf"))
        return Claims(number, row, _inside(size, excess), excess)

    def nearest(self, claims: Claims, step: Step) -> Nearest:
        if step.per_row == 1:
            return Nearest(claims.row, step.points, claims.size)
        every = torch.arange(len(step.hits) // step.per_row, device=step.hits.device)
        return _nearest(claims, step, every, claims.row)

    def time_to_settle(self, done: Tensor, step: int, waiting: bool) -> bool:
        return step % self.SETTLE_EVERY == 0


def looks_for(free: bool) -> Looks:
    """The way to work on claims, by whether looks at values are ``free``."""
    return FreeLooks() if free else NoLooks()


def _rows(number: Tensor, step: Step) -> Tensor:
    return number if step.per_row == 1 else number // step.per_row


def _inside(size: Tensor, excess: Tensor) -> Tensor:
    """``size`` (N,), infinite where the ``excess`` (N,) is above 0 or NaN."""
    return size.masked_fill(~(excess <= 0), float("inf"))


def _nearest(claims: Claims, step: Step, row: Tensor, place: Tensor) -> Nearest:
    """The nearest claim of each ``row`` (M,), among which each claim's is at ``place`` (N,)."""
    sizes = claims.size.new_full((len(row), step.per_row), float("inf"))
    sizes.index_put_((place, claims.number % step.per_row), claims.size)
    least = sizes.min(1)
    return Nearest(row, step.points.index_select(0, row * step.per_row + least.indices), least.values)
