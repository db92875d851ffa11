"""Runs of Adam in the tanh space of the Carlini-Wagner attack: w of the paper, here v = 2 w.

Memory is written over where a look is free: on a CPU to ask for it anew costs more than the
arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rbl_attacks.carlini_wagner.distance import CarliniWagnerState
from robustbench_lite.search import Moments, free_to_look
from robustbench_lite.search.adam import adam_update_in_place

SQUASH = 0.999999
"""Images shrink by this before atanh.

A pixel at exactly 0 or 1 would lie at infinity and never move.
"""


def to_tanh_space(x: Tensor) -> Tensor:
    """v, of which the sigmoid is ``x`` (B, C, H, W)."""
    return 2 * torch.atanh(SQUASH * (2 * x - 1))


def descend(state: CarliniWagnerState, slope: Tensor, learning_rate: float) -> CarliniWagnerState:
    """Take one step of Adam, writing over the memory of the state and of ``slope``.

    Args:
        state: with ``step`` counted already.
        slope: half the gradient of the loss by the image, (B, C, H, W).
        learning_rate: length of a step of w.
    """
    scratch = torch.addcmul(state.x_adv, state.x_adv, state.x_adv, value=-1)  # x (1 - x)
    # dx/dw = (1 - tanh(w)^2) / 2 = 2 x (1 - x): the product is a quarter of the gradient by w.
    adam_update_in_place(
        state.v,
        state.moments,
        slope.mul_(scratch),
        state.step,
        2 * learning_rate,  # v is 2 w
        scale=0.25,
        scratch=scratch,
    )
    return state.replace(x_adv=state.v.sigmoid())


def begin_run(state: CarliniWagnerState, over: Tensor) -> CarliniWagnerState:
    """Fresh moments, back to the starting point, for rows whose run is ``over``."""
    step = state.step.masked_fill(over, 0)
    checked = state.checked.masked_fill(over, float("inf"))
    state = state.replace(step=step, hit=state.hit & ~over, checked=checked)
    if free_to_look(over):  # there are few such rows
        rows = over.nonzero().squeeze(1)
        state.v[rows] = state.start[rows]
        state.x_adv[rows] = state.start[rows].sigmoid()
        state.moments.mean[rows] = 0.0
        state.moments.square[rows] = 0.0
        return state
    rows = over.reshape(-1, 1, 1, 1)
    v = torch.where(rows, state.start, state.v)
    mean = state.moments.mean
    square = state.moments.square
    moments = Moments(mean.masked_fill(rows, 0), square.masked_fill(rows, 0))
    return state.replace(v=v, x_adv=v.sigmoid(), moments=moments)
