"""Square Attack.

Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via
random search", arXiv:1912.00049; in L1 Croce and Hein 2021, "Mind the box: l1-APGD for sparse
adversarial attacks on image classifiers", arXiv:2103.01208.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.square.plan import SCHEDULE, Schedule, SquarePlan
from rbl_attacks.square.squares import place, recolour, stripes
from rbl_attacks.square.waves import shift, tile_edge, tiles
from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Query,
    SampleRng,
    State,
    margin_loss,
)
from robustbench_lite.threat import ThreatModel

POWERS = {"l2": 2, "l1": 1}
"""The powers that the norms other than Linf sum."""
SMALLEST = 3
"""Smallest edge of a window of bumps, in pixels."""


@dataclass(frozen=True)
class SquareState(State):
    x: Tensor
    x_adv: Tensor  # the point nearest to success
    loss: Tensor  # (B,) there
    points: Tensor  # (B, C, H, W), asked next
    step: Tensor  # (B,) queries so far
    plan: SquarePlan  # of the next proposals
    rng: SampleRng
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class Square(Attack[SquareState]):
    """Change one random square at a time, and keep what lowers the margin.

    The paper's loop, in Linf::

        x_adv = x with every column of every channel moved by +eps or -eps
        repeat:
            size = by the schedule: squares shrink
            proposal = x_adv, but x +- eps a channel in a square at a random place
            x_adv = proposal, if that is nearer to success

    In L2 and L1 a proposal moves norm from one window to another, and adds opposite bumps there.
    Deviations, each for more successes: every row has its own square, at any place of the image; a
    colour that the middle of the square has already is exchanged; what clipping takes of an L2 or
    L1 change is spread over the rest of it.

    Args:
        queries: of one run, the first point included.
        p: share of the image that the first square covers.
        restarts: runs from new starts for samples that are not broken yet.
        rescale: spread the schedule, made for 10,000 queries, over ``queries``.
    """

    name: ClassVar[str] = "square"
    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Kind] = "fixed_eps"
    batches: ClassVar[int] = 8
    starts_anywhere: ClassVar[bool] = True
    paper: ClassVar[str] = "Andriushchenko et al. 2020, arXiv:1912.00049"

    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = True

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1 or not 0 < self.p <= 1:
            least = "queries and restarts of at least 1, and a p above 0, up to 1"
            raise UsageError(f"square needs {least}.")

    def progress(self, state: SquareState) -> Tensor:
        return state.step / self.queries

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> SquareState:
        return self.init_at(self._start(x, threat, rng), x, y, threat, rng)

    def init_at(
        self, start: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng
    ) -> SquareState:
        step = torch.zeros_like(y)
        power = POWERS.get(threat.norm.name)
        schedule = Schedule(
            queries=self.queries if self.rescale else SCHEDULE,
            share=self.p,
            shape=x.shape[1:],
            least=1 if power is None else SMALLEST,
        )
        count = x.shape[1] + (2 if power is None else 5)
        plan = SquarePlan.fresh(rng, step, count, schedule)
        loss = x.new_full((len(x),), float("-inf"))
        return SquareState(step.bool(), x, start, loss, start, step, plan, rng, threat)

    def ask(self, state: SquareState) -> Query:
        return Query.scores(state.points, loss=margin_loss)

    def tell(self, state: SquareState, answer: Answer) -> SquareState:
        loss = answer.need_loss()
        rises = loss > state.loss
        step = state.step + 1
        state = state.replace(
            x_adv=torch.where(rises.reshape(-1, 1, 1, 1), state.points, state.x_adv),
            loss=torch.where(rises, loss, state.loss),
            step=step,
            plan=state.plan.renew(state.rng, state.step),
            finished=state.finished | (step >= self.queries),
        )
        return state.replace(points=self._propose(state))

    def _start(self, x: Tensor, threat: ThreatModel, rng: SampleRng) -> Tensor:
        channels, height, width = x.shape[1:]
        starts = rng.stream("start")
        if threat.norm.name not in POWERS:
            return stripes(x, starts.uniform(0, (channels * width,)), threat.radius)
        down, across = (-(-edge // tile_edge(x.shape[1:])) for edge in (height, width))
        unit = starts.uniform(0, (channels, down, across))
        return tiles(x, unit, threat.radius, POWERS[threat.norm.name])

    def _propose(self, state: SquareState) -> Tensor:
        """The next points, (B, C, H, W)."""
        x = state.x
        shape = x.shape[1:]
        power = POWERS.get(state.threat.norm.name)
        size, unit = state.plan.at(state.step)
        window = place(unit[:, :2], size, shape)
        if power is None:
            return recolour(x, state.x_adv, window, unit[:, 2:], state.threat.radius)
        windows = window, place(unit[:, 2:4], size, shape)
        return shift(x, state.x_adv, windows, unit[:, 4:], state.threat.radius, power)
