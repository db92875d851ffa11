"""What an answer tells a row of HopSkipJump, stage by stage.

A row looks for a start; it narrows the way from the image to there down to the boundary; it
estimates the normal of the boundary; it leaps along it, and narrows again. Rows of all stages lie
side by side: each function here changes the rows that it is given as a mask, and no others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rbl_attacks.hop_skip_jump.geometry import GRAINS, blend, directions, leap, starts
from rbl_attacks.hop_skip_jump.state import (
    ESTIMATE,
    LEAP,
    NARROW,
    START,
    STARTS,
    HopSkipJumpState,
)
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import per_row


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
