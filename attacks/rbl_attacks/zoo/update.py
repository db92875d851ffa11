"""How ZOO moves a coordinate (Chen et al. 2017, arXiv:1708.03999): differences, Adam and Newton."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rbl_attacks.zoo.order import Turns
from rbl_attacks.zoo.state import ZOOState
from robustbench_lite.search import Moments
from robustbench_lite.search.adam import adam_update_folded

Update = Literal["adam", "newton"]
STEP: dict[Update, float] = {"adam": 1e-4, "newton": 1e-2}
"""h of equation 6.

Newton's second difference divides by h^2: at the paper's 1e-4 float32 leaves only rounding.
"""
_FLATTEST = 0.1
"""Floor of Newton's curvature; where it is not positive 1 takes its place (the authors' code)."""


class Slopes(NamedTuple):
    """First and second derivative by each of n coordinates; the second may be nan or infinite."""

    slope: Tensor
    """(B, n)."""
    curvature: Tensor
    """(B, n)."""


def differences(values: Tensor, own: Tensor, up: Tensor, down: Tensor) -> Slopes:
    """The derivatives by symmetric differences.

    Args:
        values: of the loss at the image, at each coordinate moved up, at each moved down,
            (B, 2 n + 1).
        own: the coordinates, (B, n).
        up: the coordinates moved up, (B, n).
        down: the coordinates moved down, (B, n).
    """
    here = values[:, :1]
    above, below = values[:, 1:].chunk(2, 1)
    # At a bound there is one side only and no second difference.
    curvature = ((above - here) / (up - own) - (here - below) / (own - down)) * 2 / (up - down)
    return Slopes((above - below) / (up - down), curvature)


class Move(NamedTuple):
    """One step of n coordinates."""

    move: Tensor
    """What to take away, in learning rates, (B, n)."""
    memory: Tensor
    """After the step, (B, 3, n)."""


def newton(total: Slopes, memory: Tensor) -> Move:
    """Slope over curvature (algorithm 3); ``memory`` is left as it is."""
    curved = (total.curvature > 0) & total.curvature.isfinite()
    curvature = torch.where(curved, total.curvature.clamp_min(_FLATTEST), 1.0)
    return Move(total.slope / curvature, memory)


def adam(total: Slopes, memory: Tensor) -> Move:
    """Each coordinate with the bias correction of its own count (algorithm 2).

    Args:
        total: its slope is the gradient.
        memory: both moments, and how often each coordinate has moved, (B, 3, n).
    """
    mean, square, count = memory.unbind(1)
    move, moments = adam_update_folded(Moments(mean, square), total.slope, count + 1)
    return Move(move, torch.stack([moments.mean, moments.square, count + 1], 1))


def descend(
    state: ZOOState,
    turns: Turns,
    lead: Tensor,
    moves: Tensor,
    update: Update,
    learning_rate: float,
) -> ZOOState:
    """Take one step on the next coordinates of each row, within the bounds of the image.

    Args:
        state: before the step.
        turns: says which coordinates these are.
        lead: the second term without its c, at the image and beside it, (B, 2 n + 1).
        moves: rows that take the step, (B,) bool.
        update: the rule.
        learning_rate: length of a step.
    """
    at = turns.next(state)
    space = turns.space
    own = state.noise.gather(1, at)  # (B, n)
    up, down = space.beside(state.x, state.noise, at, STEP[update])
    hinge = differences(lead, own, up, down)
    pull = space.pull(state.x, state.noise)
    const = state.const.unsqueeze(1)
    slope = pull.slope.gather(1, at) + const * hinge.slope
    curvature = pull.curvature.gather(1, at) + const * hinge.curvature
    columns = at.unsqueeze(1).expand(-1, 3, -1)
    before = state.memory.gather(2, columns)  # (B, 3, n)
    take = newton if update == "newton" else adam
    move, after = take(Slopes(slope, curvature), before)
    value = space.within(state.x, at, own - learning_rate * move)
    value = torch.where(moves.unsqueeze(1), value, own)
    after = torch.where(moves.reshape(-1, 1, 1), after, before)
    memory = state.memory.scatter(2, columns, after)
    return state.replace(noise=state.noise.scatter(1, at, value), memory=memory)
