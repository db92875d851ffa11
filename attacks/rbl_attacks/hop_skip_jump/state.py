"""Where a row of HopSkipJump stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.search import SampleRng, State
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import L2

START, NARROW, ESTIMATE, LEAP = range(4)
STARTS = 5
"""Points that a search for a start asks for at once."""
FINENESS = 0.5
"""How fine the boundary is bracketed, as a share of how far directions reach along its normal."""


@dataclass(frozen=True)
class HopSkipJumpState(State):
    x: Tensor
    current: Tensor  # the point near the boundary that the row stands on
    far: Tensor  # the end of the way that is narrowed down
    low: Tensor  # (B,) share of the way that is known to fail
    high: Tensor  # (B,) share of the way that is known to succeed
    distance: Tensor  # (B,) of ``current`` from the image, in the norm
    length: Tensor  # (B,) of the next leap
    stage: Tensor  # (B,)
    step: Tensor  # (B,) iterations so far
    spent: Tensor  # (B,) queries so far
    draw: Tensor  # (B,) number of the next random numbers
    left: Tensor  # (B,) questions that are left of an estimate
    normal: Tensor  # (B, C, H, W) the estimate: directions that succeed, where their opposites fail
    points: Tensor  # (B, P, C, H, W), asked next
    rng: SampleRng
    threat: ThreatModel
    reach: (
        float  # of directions: share of the distance over the square root of the number of values
    )

    @property
    def valid(self) -> Tensor:
        """Points that the rows ask about, (B, P) bool."""
        count = torch.where(self.stage == START, min(STARTS, self.points.shape[1]), 1)
        count = torch.where(self.stage == ESTIMATE, self.points.shape[1], count)
        return torch.arange(self.points.shape[1], device=count.device) < count.unsqueeze(1)

    @property
    def radius(self) -> Tensor:
        """How far directions reach from ``current``, (B,), in L2 whatever the norm is."""
        size = L2().size(self.current - self.x)
        return size * (self.reach / math.sqrt(self.x[0].numel()))

    @property
    def tolerance(self) -> float:
        """How fine the boundary is bracketed, as a share of the distance."""
        return FINENESS * self.reach / self.x[0].numel()
