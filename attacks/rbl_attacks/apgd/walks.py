"""What differs between the norms of Auto-PGD: how it steps, and what it does at a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rbl_attacks.apgd.climb import Climb
from robustbench_lite.search import SampleRng, surely_none
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

KEPT = 0.75
"""How much of a step is new; the rest is what the last one moved (alpha of equation 5)."""
FIRST_WINDOW = 0.22
NEXT_WINDOW = 0.03
LEAST_WINDOW = 0.06
"""Shares of all steps: up to the first checkpoint, less to each next one, and at least."""


@dataclass(frozen=True, kw_only=True)
class Walk(ABC):
    """How one norm climbs: through phases of their own radii, with checkpoints on the way."""

    steps: int
    rho: float

    @property
    def phases(self) -> int:
        """Climbs that follow one another; the last one is in the ball."""
        return 1

    @property
    def first_phase(self) -> int:
        """The phase that a search begins in."""
        return 0

    def lengths(self, phase: Tensor) -> Tensor:
        """Count the steps of the phases ``phase`` (B,), (B,) int64."""
        return torch.full_like(phase, self.steps)

    @abstractmethod
    def noise(self, x: Tensor, threat: ThreatModel, rng: SampleRng, draw: Tensor) -> Tensor:
        """Draw where a climb of the images ``x`` (B, C, H, W) begins."""

    @abstractmethod
    def begin(self, x: Tensor, x_adv: Tensor, phase: Tensor, threat: ThreatModel) -> Climb:
        """Begin a phase at ``x_adv``, or at the nearest point within its radius."""

    @abstractmethod
    def check(self, climb: Climb, x: Tensor, phase: Tensor, threat: ThreatModel) -> AfterCheck:
        """Reduce the steps of rows whose checkpoint it is, where the loss no longer rises."""

    @abstractmethod
    def step(
        self, climb: Climb, gradient: Tensor, x: Tensor, phase: Tensor, threat: ThreatModel
    ) -> Tensor:
        """Go up the ``gradient`` (B, C, H, W) from ``climb.x_adv``; the next point."""


class AfterCheck(NamedTuple):
    """What a checkpoint has led to."""

    climb: Climb
    back: Tensor
    """Rows that go back to their best point, (B,) bool."""


@dataclass(frozen=True, kw_only=True)
class MomentumWalk(Walk):
    """Linf and L2: steps with momentum, halved (section 3 of arXiv:2003.01690)."""

    first_step: ClassVar[float] = 2.0
    """In radii."""

    def noise(self, x: Tensor, threat: ThreatModel, rng: SampleRng, draw: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        stream = rng.stream("start")
        even = threat.norm.name == "linf"
        delta = stream.uniform(draw, shape) * 2 - 1 if even else stream.normal(draw, shape)
        size = threat.norm.size(delta).clamp_min(torch.finfo(delta.dtype).tiny)
        return (x + delta * per_row(threat.radius / size, x)).clamp_(0, 1)

    def begin(self, x: Tensor, x_adv: Tensor, phase: Tensor, threat: ThreatModel) -> Climb:
        step_size = torch.full(phase.shape, self.first_step * threat.radius, device=x.device)
        return Climb.begin(x_adv, max(1, int(FIRST_WINDOW * self.steps)), step_size)

    def check(self, climb: Climb, x: Tensor, phase: Tensor, threat: ThreatModel) -> AfterCheck:
        due = climb.since == climb.window
        if surely_none(due):
            return AfterCheck(climb, due)
        few = climb.rises <= self.rho * climb.window
        stuck = ~climb.reduced & (climb.checked >= climb.highest)
        halve = due & (few | stuck)
        least = max(1, int(LEAST_WINDOW * self.steps))
        window = (climb.window - max(1, int(NEXT_WINDOW * self.steps))).clamp_min(least)
        climb = climb.replace(
            checked=torch.where(due, climb.highest, climb.checked),
            since=climb.since.masked_fill(due, 0),
            window=torch.where(due, window, climb.window),
            rises=climb.rises.masked_fill(due, 0),
            reduced=torch.where(due, halve, climb.reduced),
            step_size=torch.where(halve, climb.step_size / 2, climb.step_size),
        )
        return AfterCheck(climb, halve)

    def step(
        self, climb: Climb, gradient: Tensor, x: Tensor, phase: Tensor, threat: ThreatModel
    ) -> Tensor:
        here = climb.x_adv
        ascent = threat.norm.steepest(gradient)
        ahead = threat.project(torch.addcmul(here, per_row(climb.step_size, here), ascent), x)
        kept = torch.full_like(climb.step_size, KEPT).masked_fill_(climb.step == 0, 1)
        kept = per_row(kept, here)
        moved = torch.lerp(here, ahead, kept).addcmul_(here - climb.x_old, 1 - kept)
        return threat.project(moved, x)
