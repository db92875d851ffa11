"""What the engine knows of each row in flight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.rows.rows import Rows
from robustbench_lite.search.attack import State


@dataclass(frozen=True)
class Slots(Rows):
    """B rows in flight."""

    position: Tensor
    """Row of the task, (B,)."""
    index: Tensor
    """Its place in the data set, (B,)."""
    restart: Tensor
    """Number of the restart that it is in, (B,)."""
    restarts_left: Tensor
    """How many more it may have, (B,)."""
    x: Tensor
    y: Tensor
    target: Tensor
    best: Tensor
    """The nearest adversarial so far, or the clean image, (B, C, H, W)."""
    best_size: Tensor
    """Its distance, (B,); inf where there is none."""
    forward: Tensor
    backward: Tensor
    unasked: Tensor
    """``best`` is a last point that the model was not asked about, (B,) bool."""
    wins: Tensor
    """Votes of a random model for ``best``, (B,)."""
    done: Tensor
    spent: Tensor
    """Queries that counted against the row's budget before it entered, (B,)."""
    start: Tensor
    """Where its search begins, (B, C, H, W); (B, 0) where the attack chooses."""
    lowest: Tensor
    """The point in the ball nearest to success so far, (B, C, H, W); (B, 0) if nobody wants it."""
    lowest_margin: Tensor
    """How far it is from success, (B,)."""
    fault: Tensor
    """Largest excess of a point that a fixed-eps attack claimed, (B,).

    NaN when the model's output was not finite.
    """
    state: State

    @property
    def keeps_lowest(self) -> bool:
        """Somebody wants to know the points nearest to success."""
        return self.lowest.dim() == 4

    def refill(self, gone: Tensor, fresh: Slots | None) -> Slots:
        """Put ``fresh`` rows into the slots of those that left; with none left, close the gaps."""
        count = 0 if fresh is None else len(fresh.y)
        slots = self
        if fresh is not None and count:
            slots = slots.assign(gone[:count], fresh)
        if count == len(gone):
            return slots
        keep = torch.ones_like(slots.done)
        keep[gone[count:]] = False
        return slots.select(keep.nonzero().squeeze(1))
