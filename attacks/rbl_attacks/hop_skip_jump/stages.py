"""Where a row of HopSkipJump stands, and what an answer tells it, stage by stage.

A row looks for a start; it narrows the way from the image to there down to the boundary; it
estimates the normal of the boundary; it leaps along it, and narrows again. Rows of all stages lie
side by side: each function here changes the rows that it is given as a mask, and no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rbl_attacks.hop_skip_jump.geometry import GRAINS, blend, directions, leap, starts
from robustbench_lite.search import SampleRng, State
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import per_row

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
        size = (self.current - self.x).flatten(1).norm(dim=1)
        return self.reach * size / math.sqrt(self.x[0].numel())

    @property
    def tolerance(self) -> float:
        """How fine the boundary is bracketed, as a share of the distance."""
        return FINENESS * self.reach / self.x[0].numel()


def start(state: HopSkipJumpState, success: Tensor, rows: Tensor) -> HopSkipJumpState:
    """Take the first of the noises that succeeds, (B, P), in ``rows`` (B,)."""
    hits = success & state.valid
    first = hits.to(torch.int8).argmax(1)
    point = state.points[torch.arange(len(first), device=first.device), first]
    return _narrow_from(state, point, rows & hits.any(1))


def _narrow_from(state: HopSkipJumpState, far: Tensor, rows: Tensor) -> HopSkipJumpState:
    """Let ``rows`` narrow down the way from the image to ``far``."""
    return state.replace(
        far=torch.where(rows.reshape(-1, 1, 1, 1), far, state.far),
        low=state.low.masked_fill(rows, 0),
        high=state.high.masked_fill(rows, 1),
        stage=state.stage.masked_fill(rows, NARROW),
    )


def narrow(
    state: HopSkipJumpState, success: Tensor, rows: Tensor, questions: Tensor
) -> HopSkipJumpState:
    """Halve the bracket, and stand on its end when it is fine enough.

    Args:
        state: before.
        success: of the middle, (B,).
        rows: which narrow, (B,) bool.
        questions: how many an estimate takes in the iteration that may begin, (B,).
    """
    middle = (state.low + state.high) / 2
    high = torch.where(rows & success, middle, state.high)
    low = torch.where(rows & ~success, middle, state.low)
    done = rows & (high - low < state.tolerance * high)
    shaped = done.reshape(-1, 1, 1, 1)
    norm = state.threat.norm
    point = blend(norm, state.x, state.far, high)
    return state.replace(
        low=low,
        high=high,
        current=torch.where(shaped, point, state.current),
        distance=torch.where(done, norm.size(point - state.x), state.distance),
        stage=state.stage.masked_fill(done, ESTIMATE),
        step=state.step + done,
        left=torch.where(done, questions, state.left),
        normal=state.normal.masked_fill(shaped, 0),
    )


def estimate(state: HopSkipJumpState, success: Tensor, rows: Tensor) -> HopSkipJumpState:
    """Add what the directions of ``rows`` say, (B, P), and leap when they are enough.

    A pair of opposites of which both or none succeed says nothing (equation 16 subtracts the mean
    of all to that end).
    """
    half = success.shape[1] // 2
    sign = (success[:, :half].float() - success[:, half:].float()) * rows.unsqueeze(1)  # (B, P / 2)
    across = (state.points[:, :half] - state.points[:, half:]).flatten(2)
    normal = state.normal + torch.bmm(sign.unsqueeze(1), across).reshape(state.x.shape)
    left = state.left - rows.long()
    ready = rows & (left <= 0)
    length = state.distance * state.step.clamp(min=1).rsqrt()
    return state.replace(
        normal=normal,
        left=left,
        length=torch.where(ready, length, state.length),
        stage=state.stage.masked_fill(ready, LEAP),
    )


def land(state: HopSkipJumpState, success: Tensor, rows: Tensor) -> HopSkipJumpState:
    """Narrow down from where a leap of ``rows`` succeeded (B,), or leap half as far."""
    shorter = rows & ~success
    length = torch.where(shorter, state.length / 2, state.length)
    # Where even the shortest leap fails, the row narrows down again from where it stands.
    stays = shorter & (length < state.tolerance * state.distance)
    end = torch.where(stays.reshape(-1, 1, 1, 1), state.current, state.points[:, 0])
    return _narrow_from(state.replace(length=length), end, (rows & success) | stays)


def exchange(state: HopSkipJumpState) -> HopSkipJumpState:
    """Put the points that each row asks about next in the place of the old ones."""
    norm = state.threat.norm
    middle = blend(norm, state.x, state.far, (state.low + state.high) / 2)
    ahead = leap(norm, state.current, state.normal, state.length)
    leaps = (state.stage == LEAP).reshape(-1, 1, 1, 1)
    points = state.points.clone()
    points[:, 0] = torch.where(leaps, ahead, middle)
    count, shape = points.shape[1], state.x.shape[1:]
    rows = (state.stage == START).nonzero().squeeze(1)
    if len(rows):
        fresh = starts(state.rng.select(rows), state.draw[rows], min(STARTS, count), shape)
        points[rows, : fresh.shape[1]] = fresh
    for turn, grain in enumerate(GRAINS):
        due = (state.stage == ESTIMATE) & (state.step % len(GRAINS) == turn)
        rows = due.nonzero().squeeze(1)
        if len(rows):
            around = directions(state.rng.select(rows), state.draw[rows], count, shape, grain)
            around *= per_row(state.radius[rows], around)
            points[rows] = around.add_(state.current[rows].unsqueeze(1)).clamp_(LOW, HIGH)
    return state.replace(points=points, draw=state.draw + 1)
