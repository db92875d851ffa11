"""Sparse-RS: random search over a few pixels.

Croce et al. 2022, "Sparse-RS: a versatile framework for query-efficient sparse black-box
adversarial attacks", arXiv:2006.12834.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.rows.losses import margin_loss
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng, State
from robustbench_lite.threat import ThreatModel

HALTS = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which fewer pixels are exchanged at once (appendix A)."""
SHARES = (1 / 2, 1 / 4, 1 / 5, 1 / 6, 1 / 8, 1 / 10, 1 / 12, 1 / 15, 1 / 20)
"""What is left of ``share`` after each."""
SCHEDULED = 10_000


@dataclass(frozen=True)
class SparseRSState(State):
    x: Tensor
    x_adv: Tensor  # (B, C, H, W), asked next
    place: Tensor  # (B, K) int64, the changed pixels of x_adv, row times width plus column
    colour: Tensor  # (B, K, C)
    best_place: Tensor  # of the best point so far
    best_colour: Tensor
    best: Tensor  # (B,) its loss; -inf before the first answer
    step: Tensor  # (B,) queries so far
    rng: SampleRng


@dataclass(frozen=True, kw_only=True)
class SparseRS(Attack[SparseRSState]):
    """Exchange some of eps changed pixels for others, in corner colours, where the margin falls.

    Every proposal gives pixels of the set back, takes as many new ones, and gives these colours
    whose channels are 0 or 1; their number falls with the queries. Deviation: a set is exchanged
    even where the margin stays as it is, so that plateaus are crossed. Cost a sample: ``queries``
    forwards, at most.

    Args:
        queries: of one run, the first point included.
        share: of the pixels that the first proposals exchange.
    """

    name: ClassVar[str] = "sparse_rs"
    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    kind: ClassVar[Kind] = "fixed_eps"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Croce et al. 2022, arXiv:2006.12834"

    queries: int = 5000
    share: float = 0.3

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.share <= 1:
            given = f"{self.queries} and {self.share}"
            needs = "at least 1 query and a share above 0, up to 1"
            raise UsageError(f"sparse_rs needs {needs}, not {given}.")

    def progress(self, state: SparseRSState) -> Tensor:
        return state.step / self.queries

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> SparseRSState:
        count = min(int(threat.radius), x.shape[2] * x.shape[3])
        step = torch.zeros_like(y)
        places = rng.stream("places").uniform(0, (x.shape[2] * x.shape[3],))
        place = places.argsort(dim=1, stable=True)[:, :count]
        colour = _corners(rng, step, count, x.shape[1])
        state = SparseRSState(
            finished=step.bool(),
            x=x,
            x_adv=x,
            place=place,
            colour=colour,
            best_place=place,
            best_colour=colour,
            best=torch.full(y.shape, float("-inf"), device=x.device),
            step=step,
            rng=rng,
        )
        return _painted(state)

    def ask(self, state: SparseRSState) -> Query:
        return Query.scores(state.x_adv, loss=margin_loss)

    def tell(self, state: SparseRSState, answer: Answer) -> SparseRSState:
        loss = answer.need_loss()
        better = loss >= state.best
        state = state.replace(
            best=torch.where(better, loss, state.best),
            best_place=torch.where(better.unsqueeze(1), state.place, state.best_place),
            best_colour=torch.where(better[:, None, None], state.colour, state.best_colour),
            step=state.step + 1,
        )
        finished = state.finished | (state.step >= self.queries)
        state = self._propose(state)
        return state.replace(finished=state.finished | finished)

    def _propose(self, state: SparseRSState) -> SparseRSState:
        """Exchange some pixels of the best set."""
        count = state.place.shape[1]
        size = state.x.shape[2] * state.x.shape[3]
        if count in (0, size):
            return state.replace(finished=torch.ones_like(state.finished))
        leaving = state.rng.stream("leaving").uniform(state.step, (count,))
        rank = leaving.argsort(dim=1, stable=True).argsort(dim=1)
        # Those outside of the set in an order of their own: the first take the places of others.
        order = state.rng.stream("entering").uniform(state.step, (size,))
        order = order.scatter(1, state.best_place, 2.0)
        fresh = order.topk(min(count, size - count), dim=1, largest=False).indices
        leaves = rank < self._exchanged(state, count).clamp_max(fresh.shape[1])
        place = fresh.gather(1, rank.clamp_max(fresh.shape[1] - 1))
        colours = _corners(state.rng, state.step, count, state.x.shape[1])
        return _painted(
            state.replace(
                place=torch.where(leaves, place, state.best_place),
                colour=torch.where(leaves.unsqueeze(2), colours, state.best_colour),
            )
        )

    def _exchanged(self, state: SparseRSState, count: int) -> Tensor:
        """Say how many pixels each row exchanges, (B, 1)."""
        spread = state.step * SCHEDULED // self.queries
        part = torch.ones_like(state.best)
        for halt, share in zip(HALTS, SHARES, strict=True):
            part = part.masked_fill(spread > halt, share)
        return (self.share * part * count).floor().clamp_min(1).unsqueeze(1)


def _corners(rng: SampleRng, step: Tensor, count: int, channels: int) -> Tensor:
    """Draw colours whose channels are 0 or 1, (B, count, channels)."""
    return (rng.stream("colours").uniform(step, (count, channels)) >= 0.5).float()


def _painted(state: SparseRSState) -> SparseRSState:
    """Put the colours of the proposal where its pixels are."""
    flat = state.x.flatten(2)  # (B, C, H W)
    place = state.place.unsqueeze(1).expand(-1, flat.shape[1], -1)
    x_adv = flat.scatter(2, place, state.colour.transpose(1, 2)).reshape(state.x.shape)
    return state.replace(x_adv=x_adv)
