"""The primal step of PDPGD: Adam, then the proximal operator in the metric of Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rbl_attacks.pdpgd.proximal import PROXIMALS
from robustbench_lite.search import Moments, State, surely_none
from robustbench_lite.search.adam import DECAY, DECAY_SQUARE, TINY
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

CONVERGED = 0.01
"""A proximal step is over when the point moves by less than this share of its length."""


@dataclass(frozen=True)
class PDPGDState(State):
    x: Tensor
    x_adv: Tensor
    moments: Moments
    step: Tensor  # (B,) gradient steps so far
    log_weight: Tensor  # (B,) logarithm of the margin's weight over that of the distance
    weight: Tensor  # (B,) decaying mean of the margin's share of the weights
    threat: ThreatModel


class Primal(NamedTuple):
    """How far a primal step goes."""

    rate: Tensor
    """Of Adam, (B,)."""
    proximal_steps: int


class Descended(NamedTuple):
    """Where a primal step ends."""

    x_adv: Tensor
    """(B, C, H, W)."""
    moments: Moments


def descend(state: PDPGDState, gradient: Tensor, primal: Primal) -> Descended:
    """Take the primal step of each row.

    Args:
        state: before the step.
        gradient: of what Adam raises, (B, C, H, W).
        primal: how far to go.
    """
    count = per_row(state.step + 1, gradient)
    mean = state.moments.mean.lerp(gradient, 1 - DECAY)
    square = state.moments.square.mul(DECAY_SQUARE)
    square.addcmul_(gradient, gradient, value=1 - DECAY_SQUARE)
    spread = square.sqrt().div_((1 - DECAY_SQUARE**count).sqrt()).add_(TINY)
    move = (mean / spread).mul_(per_row(primal.rate, mean) / (1 - DECAY**count))
    delta = (state.x_adv + move).clamp_(0, 1).sub_(state.x)
    widest = spread.flatten(1).amax(1)
    level = (1 - state.weight) / state.weight * primal.rate / widest
    metric = spread.div_(per_row(widest, spread))
    delta = _settle(state, delta, metric, level, primal.proximal_steps)
    return Descended((state.x + delta).clamp_(0, 1), Moments(mean, square))


def _settle(state: PDPGDState, goal: Tensor, metric: Tensor, level: Tensor, steps: int) -> Tensor:
    """Weigh the norm, by ``level`` (B,), against the distance to ``goal`` in Adam's metric."""
    shrink = PROXIMALS[state.threat.norm.name]
    delta = goal
    active = torch.ones_like(state.finished)
    for _ in range(steps):
        pulled = torch.addcmul(delta, metric, delta - goal, value=-1)
        fresh = shrink(pulled, level).add_(state.x).clamp_(0, 1).sub_(state.x)
        fresh = torch.where(active.reshape(-1, 1, 1, 1), fresh, delta)
        moved = torch.linalg.vector_norm((fresh - delta).flatten(1), dim=1)
        length = torch.linalg.vector_norm(fresh.flatten(1), dim=1)
        active = active & (moved > CONVERGED * length) & (length > 0)
        delta = fresh
        if surely_none(active):
            break
    return delta
