"""One climb of Auto-PGD: where each row stands in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.search import Answer, Rows, free_to_look, surely_none


@dataclass(frozen=True)
class Climb(Rows):
    """One climb of the loss, with a radius and a number of steps that do not change."""

    x_adv: Tensor  # (B, C, H, W), asked next
    x_old: Tensor  # (B, C, H, W), asked before
    x_best: Tensor  # (B, C, H, W), of the highest loss
    slope: Tensor  # (B, C, H, W), the gradient there
    highest: Tensor  # (B,) that loss
    loss: Tensor  # (B,) of the point asked before
    checked: Tensor  # (B,) the highest loss at the last checkpoint
    step: Tensor  # (B,) int64, steps taken
    since: Tensor  # (B,) int64, of them since the last checkpoint
    window: Tensor  # (B,) int64, steps from that to the next one
    rises: Tensor  # (B,) int64, how often the loss has risen since
    reduced: Tensor  # (B,) bool, the step size was reduced at the last checkpoint
    step_size: Tensor  # (B,)
    support: Tensor  # (B,) coordinates that differed at the last checkpoint; L1 only
    density: Tensor  # (B,) share of the coordinates that a step moves; L1 only

    @classmethod
    def begin(cls, x_adv: Tensor, window: int | Tensor, step_size: Tensor) -> Climb:
        """Begin at ``x_adv`` (B, C, H, W).

        Args:
            x_adv: the first points.
            window: steps up to the first checkpoint, of all rows or of each (B,).
            step_size: (B,).
        """
        zero = torch.zeros(len(x_adv), dtype=torch.int64, device=x_adv.device)
        low = torch.full(zero.shape, float("-inf"), device=x_adv.device)
        return cls(
            x_adv=x_adv,
            x_old=x_adv.clone(),
            x_best=x_adv.clone(),
            slope=torch.zeros_like(x_adv),
            highest=low,
            loss=-low,  # the first point is no rise
            checked=low.clone(),
            step=zero,
            since=zero.clone(),
            window=zero + window,
            rises=zero.clone(),
            reduced=torch.ones_like(zero, dtype=torch.bool),
            step_size=step_size,
            support=zero.to(x_adv.dtype),
            density=zero.to(x_adv.dtype),
        )

    def see(self, answer: Answer, climbing: Tensor) -> Climb:
        """Count the point that was asked about, in the rows ``climbing`` (B,) bool."""
        loss = answer.need_loss()
        higher = climbing & (loss > self.highest)
        pixels = higher.reshape(-1, 1, 1, 1)
        return self.replace(
            x_best=torch.where(pixels, self.x_adv, self.x_best),
            slope=torch.where(pixels, answer.need_gradient(), self.slope),
            highest=torch.where(higher, loss, self.highest),
            loss=torch.where(climbing, loss, self.loss),
            rises=self.rises + (climbing & (loss > self.loss)),
            since=self.since + (climbing & (self.step > 0)),
        )


def renew(climb: Climb, rows: Tensor, begin: Callable[[Tensor | None], Climb]) -> Climb:
    """Begin anew in some rows, and leave the memory of ``climb`` as it is.

    Args:
        climb: of B rows.
        rows: which of them begin anew, (B,) bool.
        begin: makes the climbs of the rows at an index (M,), or of all when that is None.
    """
    if surely_none(rows):
        return climb
    index = rows.nonzero().squeeze(1) if free_to_look(rows) else None
    fresh = begin(index)
    changed = {}
    for field in dataclasses.fields(climb):
        old = getattr(climb, field.name)
        new = getattr(fresh, field.name)
        if index is None:
            changed[field.name] = torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
        else:
            changed[field.name] = old.index_copy(0, index, new)
    return climb.replace(**changed)
