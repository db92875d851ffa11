"""RayS.

Chen and Gu 2020, "RayS: a ray searching method for hard-label adversarial attack",
arXiv:2006.12792.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.rays.blocks import Block
from robustbench_lite.errors import UsageError
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng, State
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import per_row

FARTHEST = HIGH - LOW
"""A radius that takes every value to a bound of the image."""
GAP = 2.0
"""First step of a search for a smaller radius, in tolerances; each success doubles it."""


@dataclass(frozen=True)
class RaySState(State):
    x: Tensor
    signs: Tensor  # (B, C, H, W) the ray: -1 or 1 a value
    radius: Tensor  # (B,) smallest at which the ray is known to succeed; inf before any has
    low: Tensor  # (B,) largest at which it is known to fail, in rows that search
    gap: Tensor  # (B,) next step of the search, while nothing has failed
    searches: Tensor  # (B,) bool, for the radius of a new ray; else the next flip is tried
    level: Tensor  # (B,) of the block whose signs are flipped next
    number: Tensor  # (B,) of that block in its level
    spent: Tensor  # (B,) queries so far

    @property
    def block(self) -> Block:
        """The values whose signs are flipped next."""
        return Block(self.level, self.number)


@dataclass(frozen=True, kw_only=True)
class RayS(Attack[RaySState]):
    """Search the rays to the corners of the cube for the nearest adversarial, seeing labels only.

    The paper's loop::

        ray = a sign for each value
        repeat:
            flipped = ray with the signs of the next block flipped: of the whole image, of each
                half, of each quarter, and so on
            if x + radius flipped is adversarial:
                ray = flipped
                radius = the smallest that still succeeds, by bisection

    Deviations, each for fewer queries: a flip is tried at a radius that is smaller by the
    tolerance, so that none is taken for nothing; the search for the new radius begins near the old
    one, with steps that double; before the first success flips are taken anyway.

    Args:
        queries: of one run.
        tolerance: how fine radii are measured, in input units.
    """

    name: ClassVar[str] = "rays"
    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    kind: ClassVar[Kind] = "minimal_distance"
    targeted: ClassVar[bool] = False
    paper: ClassVar[str] = "Chen and Gu 2020, arXiv:2006.12792"

    queries: int = 10_000
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise UsageError(f"rays needs queries of at least 1, not {self.queries}.")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"rays needs a tolerance between 0 and 1, not {self.tolerance}.")

    def progress(self, state: RaySState) -> Tensor:
        return state.spent / self.queries

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> RaySState:
        zero = torch.zeros_like(y)
        return RaySState(
            finished=zero.bool(),
            x=x,
            signs=torch.full_like(x, -1),
            radius=x.new_full((len(x),), float("inf")),
            low=x.new_zeros(len(x)),
            gap=x.new_zeros(len(x)),
            searches=zero.bool(),
            level=zero,
            number=zero,
            spent=zero,
        )

    def ask(self, state: RaySState) -> Query:
        ray = torch.where(state.searches.reshape(-1, 1, 1, 1), state.signs, self._flipped(state))
        step = per_row(self._asked(state), state.x)
        return Query.labels(torch.addcmul(state.x, ray, step).clamp_(LOW, HIGH))

    def tell(self, state: RaySState, answer: Answer) -> RaySState:
        asked = self._asked(state)
        hit = answer.success
        tries = ~state.searches
        radius = torch.where(hit, asked, state.radius)
        low = torch.where(tries, 0, torch.where(hit, state.low, asked))
        first = torch.where(state.radius.isfinite(), GAP * self.tolerance, FARTHEST / 2)
        takes = tries & (hit | ~state.radius.isfinite())
        searches = (state.searches | hit) & (radius - low > self.tolerance)
        after = state.block.after(state.x[0].numel())
        spent = state.spent + 1
        held = radius <= self.tolerance
        return state.replace(
            signs=torch.where(takes.reshape(-1, 1, 1, 1), self._flipped(state), state.signs),
            radius=radius,
            low=low,
            gap=torch.where(tries, first, 2 * state.gap),
            searches=searches,
            level=torch.where(tries, after.level, state.level),
            number=torch.where(tries, after.number, state.number),
            spent=spent,
            finished=state.finished | (spent >= self.queries) | held,
        )

    def _asked(self, state: RaySState) -> Tensor:
        """The radius that is asked about, (B,)."""
        # While nothing has failed, from the old radius down; then half way.
        middle = (state.low + state.radius) / 2
        near = torch.maximum(state.radius - state.gap, middle)
        search = torch.where(state.low > 0, middle, near)
        trial = (state.radius - self.tolerance).clamp(max=FARTHEST)
        return torch.where(state.searches, search, trial)

    def _flipped(self, state: RaySState) -> Tensor:
        """The ray with the signs of the next block flipped, (B, C, H, W)."""
        return torch.where(state.block.mask(state.x), -state.signs, state.signs)
