"""The search of each row for the smallest constant with which something succeeds.

It grows until the first success, and is bisected from there on: section VI.A of Carlini and Wagner
2017, "Towards evaluating the robustness of neural networks", arXiv:1608.04644.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.rows.rows import Rows

GROWTH = 10.0
"""By how much a constant grows until the first success."""


@dataclass(frozen=True)
class Bracket(Rows):
    """What is known of each row's constant."""

    low: Tensor
    """The largest that is known to fail, (B,); 0 before any has."""
    high: Tensor
    """The smallest that is known to succeed, (B,); infinite before any has."""

    @classmethod
    def fresh(cls, rows: Tensor) -> Bracket:
        """Make one that knows nothing; ``rows`` (B,) float are as many, and on that device."""
        return cls(torch.zeros_like(rows), torch.full_like(rows, float("inf")))

    def narrow(self, tried: Tensor, failed: Tensor, succeeded: Tensor) -> Bracket:
        """Learn from the constants ``tried`` (B,).

        Rows that are in neither mask (B,) learn nothing.
        """
        low = torch.where(failed, tried, self.low)
        high = torch.where(succeeded, tried, self.high)
        return Bracket(low, high)

    def next_after(self, tried: Tensor) -> Tensor:
        """Choose the constant to try after ``tried``, (B,).

        Half way, or ``GROWTH`` times as much before any success.
        """
        return torch.where(self.high.isfinite(), self.middle, GROWTH * tried)

    @property
    def middle(self) -> Tensor:
        """Half way, (B,)."""
        return (self.low + self.high) / 2
