"""What a row of the Square Attack draws, several proposals ahead.

Random numbers of one proposal cost as much as those of many: most of it is calls on small tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search import Rows, SampleRng, free_to_look, surely_none

AHEAD = 16
"""Proposals that are planned at once."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10,000 queries the area of the squares is halved (section 3.2)."""
SCHEDULE = 10_000


class Draw(NamedTuple):
    """What the next proposal is made of."""

    size: Tensor
    """Edge of the square in pixels, (B,) int64."""
    unit: Tensor
    """Uniform numbers, (B, count)."""


@dataclass(frozen=True)
class Schedule:
    """How large squares are: the same for all rows."""

    queries: int
    """Over which the halvings are spread."""
    share: float
    """Of the image that the first square covers."""
    shape: torch.Size
    """Of an image, (C, H, W)."""
    least: int
    """The smallest edge; from 3 on edges are odd, so that there is a middle."""

    def size_at(self, step: Tensor) -> Tensor:
        """Find the edge of the squares of the proposals with the numbers ``step``, int64."""
        on_schedule = step * SCHEDULE // self.queries
        level = torch.zeros_like(step)
        for halving in HALVINGS:
            level += on_schedule > halving
        height, width = self.shape[1:]
        area = torch.exp2(-level.to(torch.float32)) * (self.share * height * width)
        size = area.sqrt().round().long().clamp(min=self.least)
        if self.least > 1:
            size += 1 - size % 2
        return size.clamp(max=min(height, width))


@dataclass(frozen=True)
class SquarePlan(Rows):
    """The draws of ``AHEAD`` proposals a row, from the last multiple of it on."""

    size: Tensor
    """(B, AHEAD) int64."""
    unit: Tensor
    """(B, AHEAD, count)."""
    schedule: Schedule

    @classmethod
    def fresh(cls, rng: SampleRng, step: Tensor, count: int, schedule: Schedule) -> SquarePlan:
        """Draw the proposals from ``step`` (B,) on, which is a multiple of ``AHEAD``.

        Args:
            rng: the generator of each row.
            step: number of the first proposal.
            count: random numbers of one proposal.
            schedule: of the sizes.
        """
        steps = step.unsqueeze(1) + torch.arange(AHEAD, device=step.device)
        unit = rng.stream("moves").uniform(step // AHEAD, (AHEAD, count))
        return cls(schedule.size_at(steps), unit, schedule)

    def at(self, step: Tensor) -> Draw:
        """Look up the proposals with the numbers ``step`` (B,), for which this is the plan."""
        place = (step % AHEAD).unsqueeze(1)
        unit = self.unit.gather(1, place.unsqueeze(2).expand(-1, 1, self.unit.shape[2]))
        return Draw(self.size.gather(1, place).squeeze(1), unit.squeeze(1))

    def renew(self, rng: SampleRng, step: Tensor) -> SquarePlan:
        """Plan anew in the rows that are through with theirs."""
        due = step % AHEAD == 0
        if surely_none(due):
            return self
        count = self.unit.shape[2]
        if not free_to_look(due):
            # Rows that are not through draw what they have.
            return SquarePlan.fresh(rng, step - step % AHEAD, count, self.schedule)
        rows = due.nonzero().squeeze(1)
        fresh = SquarePlan.fresh(rng.select(rows), step[rows], count, self.schedule)
        size = self.size.index_copy(0, rows, fresh.size)
        return SquarePlan(size, self.unit.index_copy(0, rows, fresh.unit), self.schedule)
