"""Where a row of the Boundary attack stands, and what an answer tells it, stage by stage.

A row looks for a start until a point succeeds; it narrows that down to the boundary; then it walks.
Rows of all stages lie side by side: each of ``start``, ``narrow`` and ``walk`` (in
``moves``) changes the rows of its own stage and leaves the others alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.rows.rng import DOWN, UP, Pinned
from robustbench_lite.search import SampleRng, State, surely_none

# What is drawn in the search, both by the number of queries before.
WAVES = Pinned("waves", UP)
STARTS = Pinned("starts", DOWN)


@dataclass(frozen=True)
class BoundaryState(State):
    x: Tensor
    y: Tensor
    current: Tensor  # where the row stands: in noise, on the way to the boundary, on the walk
    distance: Tensor  # (B,) of ``current`` from the image
    points: Tensor  # (B, P + 1, C, H, W), asked next: P proposals, the last one's orthogonal move
    reach: Tensor  # (B, P + 1) distances of ``points`` from the image
    started: Tensor  # (B,) bool, a point has succeeded
    to_narrow: Tensor  # (B,) queries that are left to narrow the first success down
    low: Tensor  # (B,) largest share of the way from the image to ``current`` known to fail
    asked: Tensor  # (B,) queries so far
    tried: Tensor  # (B,) proposals so far
    orthogonal: Tensor  # (B,) delta of the paper
    towards: Tensor  # (B,) epsilon of the paper
    counts: Tensor  # (B, 4) trials and successes since the step last changed: of orthogonal moves,
    # then of whole proposals
    rng: SampleRng

    @property
    def proposals(self) -> int:
        """P, the points that are tried from one place."""
        return self.points.shape[1] - 1

    @property
    def walks(self) -> Tensor:
        """Rows that walk, (B,) bool."""
        return self.started & (self.to_narrow == 0)

    @property
    def tests_orthogonal(self) -> Tensor:
        """Walking rows in which the orthogonal move is due, once in ten proposals, (B,) bool."""
        return self.walks & (self.tried % 10 < self.proposals)  # as in the authors' code


class Landing(NamedTuple):
    """The nearest point that succeeded, (B,) each."""

    place: Tensor
    """Which of the points it is."""
    reach: Tensor
    """Its distance from the image; infinite where none succeeded."""
    moves: Tensor
    """Rows that go there, bool: a walk never leads away."""


def land(state: BoundaryState, success: Tensor) -> Landing:
    """Where each row goes, from the ``success`` (B, P + 1) of its points."""
    walks = state.walks
    candidate = success.clone()
    candidate[:, -1] &= ~walks  # an orthogonal move is a test, not a place to go
    reach, place = state.reach.masked_fill(~candidate, float("inf")).min(1)
    limit = state.distance.masked_fill(~walks, float("inf"))
    return Landing(place, reach, reach < limit)


def go(state: BoundaryState, landing: Landing) -> BoundaryState:
    """Stand where the landing is, in rows that go there."""
    row = torch.arange(len(landing.place), device=landing.place.device)
    point = state.points[row, landing.place]
    moves = landing.moves.reshape(-1, 1, 1, 1)
    return state.replace(
        current=torch.where(moves, point, state.current),
        distance=torch.where(landing.moves, landing.reach, state.distance),
        asked=state.asked + 1,
    )


def start(state: BoundaryState, landing: Landing) -> BoundaryState:
    """Rows without a start: the first success is one."""
    return state.replace(started=state.started | landing.moves)


def narrow(state: BoundaryState, landing: Landing) -> BoundaryState:
    """Rows on their way to the boundary: the share before the nearest success is known to fail."""
    narrows = state.started & (state.to_narrow > 0)
    if surely_none(narrows):
        return state
    row = torch.arange(len(landing.place), device=landing.place.device)
    share = shares(state.low, state.proposals + 2)  # (B, P + 2), from low to just below 1
    # Shares grow with their number. That of the success is now the whole way.
    low = share[row, landing.place] / share[row, landing.place + 1]
    low = torch.where(landing.moves, low, share[:, -1])
    low = torch.where(narrows, low, state.low)
    return state.replace(low=low, to_narrow=state.to_narrow - narrows.long())


def shares(low: Tensor, count: int) -> Tensor:
    """Equal parts of the way from a failure at ``low`` (B,) to a success at 1: (B, count)."""
    part = torch.arange(count, device=low.device) / count
    return low.unsqueeze(1) + (1 - low.unsqueeze(1)) * part
