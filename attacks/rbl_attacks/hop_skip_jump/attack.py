"""HopSkipJump.

Chen, Jordan and Wainwright 2020, "HopSkipJumpAttack: a query-efficient decision-based attack",
arXiv:1904.02144.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.hop_skip_jump.stages import estimate, exchange, land, narrow, start
from rbl_attacks.hop_skip_jump.state import ESTIMATE, LEAP, NARROW, START, HopSkipJumpState
from robustbench_lite.errors import UsageError
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng
from robustbench_lite.threat import ThreatModel

POINTS = 48
"""Directions that a row asks about at once, at most."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack[HopSkipJumpState]):
    """Walk along the decision boundary by an estimate of its normal, seeing labels only.

    The paper's loop::

        x_adv = noise of another class, blended with x down to the boundary
        for t = 1 .. steps:
            gradient = mean of the directions towards success, of draws sqrt(t) random ones
            x_adv = x_adv + length * gradient, with the first length of |x_adv - x| / sqrt(t)
                halved again and again that succeeds
            x_adv = blend with x, down to the boundary

    Deviations, each for a nearer point at the same number of queries: directions come in opposite
    pairs, smooth in every other iteration (networks react more to low frequencies); they reach
    farther, and the boundary is bracketed less finely in proportion; first estimates take fewer;
    noise of several grains to start from.

    Args:
        steps: iterations of the loop.
        draws: directions of the first estimate; the paper has 100.
        most_draws: of any estimate.
        queries: after which no new iteration begins.
        reach: how far directions reach, as a share of the distance divided by the square root of
            the number of values (L2).
        start_draws: queries for a start after which a row counts as not attackable.
    """

    name: ClassVar[str] = "hop_skip_jump"
    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})
    kind: ClassVar[Kind] = "minimal_distance"
    targeted: ClassVar[bool] = False
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Chen et al. 2020, arXiv:1904.02144"

    steps: int = 64
    draws: int = 48
    most_draws: int = 10_000
    queries: int = 25_000
    reach: float = 8.0
    start_draws: int = 200

    def __post_init__(self) -> None:
        counts = self.steps, self.draws, self.most_draws, self.queries, self.start_draws
        if min(counts) < 1 or not self.reach > 0:
            least = "steps, draws, most_draws, queries and start_draws of at least 1"
            raise UsageError(f"hop_skip_jump needs {least}, and a reach above 0.")

    def points(self, shape: tuple[int, ...]) -> int:
        return min(POINTS, self.draws + self.draws % 2)

    def progress(self, state: HopSkipJumpState) -> Tensor:
        by_steps = state.step / (self.steps + 1)
        return torch.maximum(by_steps, state.spent / self.queries).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> HopSkipJumpState:
        count = self.points(tuple(x.shape[1:]))
        zero = x.new_zeros(len(x))
        step = torch.zeros_like(y)
        state = HopSkipJumpState(
            finished=step.bool(),
            x=x,
            current=x,
            far=x,
            low=zero,
            high=zero + 1,
            distance=zero,
            length=zero,
            stage=step + START,
            step=step,
            spent=step,
            draw=step,
            left=step,
            normal=torch.zeros_like(x),
            points=x.unsqueeze(1).repeat(1, count, 1, 1, 1),
            rng=rng,
            threat=threat,
            reach=self.reach,
        )
        return exchange(state)

    def ask(self, state: HopSkipJumpState) -> Query:
        return Query.labels(state.points, state.valid)

    def tell(self, state: HopSkipJumpState, answer: Answer) -> HopSkipJumpState:
        starts, narrows, estimates, leaps = (
            state.stage == stage for stage in (START, NARROW, ESTIMATE, LEAP)
        )
        success = answer.success
        state = state.replace(spent=state.spent + state.valid.sum(1))
        state = start(state, success, starts)
        state = narrow(state, success[:, 0], narrows, self._questions(state.step + 1))
        state = estimate(state, success, estimates)
        state = land(state, success[:, 0], leaps)
        lost = starts & (state.stage == START) & (state.spent >= self.start_draws)
        full = (state.stage == ESTIMATE) & (state.spent >= self.queries)
        done = lost | full | (state.step > self.steps)
        return exchange(state.replace(finished=state.finished | done))

    def _questions(self, step: Tensor) -> Tensor:
        """How many questions the estimate of iteration ``step`` (B,) takes, (B,) int64."""
        draws = (self.draws * step.sqrt()).clamp(max=self.most_draws)
        return (draws / self.points(())).ceil().long()
