"""The climbs of Auto-PGD that follow one another: where each begins, and one step of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rbl_attacks.apgd.climb import Climb
from rbl_attacks.apgd.walks import Walk
from robustbench_lite.search import Rows, SampleRng, State, surely_all, surely_none
from robustbench_lite.search.targets import TargetTurns
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Ascents(Rows):
    """What does not change while a row is searched."""

    walk: Walk
    x: Tensor
    start: Tensor
    """Where the climbs begin, (B, C, H, W); (B, 0) for points at random."""
    rng: SampleRng
    threat: ThreatModel

    def begin(self, phase: Tensor, draw: Tensor) -> Climb:
        """Begin the climbs of all rows, in the phases ``phase`` (B,).

        Args:
            phase: the first one.
            draw: which of the row's random points, (B,).
        """
        return self.walk.begin(self.x, self._first(draw), phase, self.threat)

    def _first(self, draw: Tensor) -> Tensor:
        if self.start.dim() == 4:
            return self.start.clone()
        return self.walk.noise(self.x, self.threat, self.rng, draw)

    def next(
        self, climb: Climb, phase: Tensor, draw: Tensor, fresh: Tensor
    ) -> Callable[[Tensor | None], Climb]:
        """Say how rows go on to their next climb: at their best point, or from a ``fresh`` start.

        Args:
            climb: the one that is over.
            phase: that of the next one, (B,).
            draw: which of the random points of a row, (B,).
            fresh: rows that start afresh, (B,) bool.
        """

        def begin(index: Tensor | None) -> Climb:
            whole = slice(None) if index is None else index
            course = self if index is None else self.select(index)
            x_adv = climb.x_best[whole]
            anew = fresh[whole]
            if not surely_none(anew):
                x_adv = torch.where(anew.reshape(-1, 1, 1, 1), course._first(draw[whole]), x_adv)
            return self.walk.begin(course.x, x_adv, phase[whole], self.threat)

        return begin

    def go(self, climb: Climb, gradient: Tensor, phase: Tensor, climbing: Tensor) -> Climb:
        """Take a step up the ``gradient`` in the rows ``climbing`` (B,) bool."""
        climb, back = self.walk.check(climb, self.x, phase, self.threat)
        if not surely_none(back):
            rows = back.reshape(-1, 1, 1, 1)
            climb = climb.replace(x_adv=torch.where(rows, climb.x_best, climb.x_adv))
            gradient = torch.where(rows, climb.slope, gradient)
        ahead = self.walk.step(climb, gradient, self.x, phase, self.threat)
        if not surely_all(climbing):
            ahead = torch.where(climbing.reshape(-1, 1, 1, 1), ahead, climb.x_adv)
        return climb.replace(x_adv=ahead, x_old=climb.x_adv, step=climb.step + climbing)


@dataclass(frozen=True)
class APGDState(State):
    phase: Tensor  # (B,) int64, of the radii
    turns: TargetTurns
    climb: Climb
    course: Ascents
