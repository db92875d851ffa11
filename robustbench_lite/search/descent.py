"""Pieces of descents that take a gradient a step, each row at a step of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_lite.rows.looks import surely_none
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.threat.norms import L2

_L2 = L2()


def anneal(step: Tensor, steps: int, first: float, last: float) -> Tensor:
    """Go from ``first`` to ``last`` along half a cosine.

    Args:
        step: steps that each row has taken, (B,) int64.
        steps: at which ``last`` is reached.
        first: the value at step 0.
        last: the value at the end.

    Returns:
        (B,) float32.
    """
    return last + (first - last) / 2 * (1 + torch.cos(step * (math.pi / steps)))


def unit_direction(gradient: Tensor, rng: SampleRng, step: Tensor) -> Tensor:
    """Scale each row of ``gradient`` to the L2 length 1.

    A row whose gradient is 0 gets a random direction, or it would stay where it is for good.

    Args:
        gradient: (B, C, H, W).
        rng: the generator of each row.
        step: steps that each row has taken, (B,) int64: the number of the draw.
    """
    direction = _L2.steepest(gradient)
    flat = (direction == 0).flatten(1).all(1)
    if surely_none(flat):
        return direction
    noise = rng.stream("flat").normal(step, tuple(gradient.shape[1:]))
    return torch.where(flat.reshape(-1, 1, 1, 1), _L2.steepest(noise), direction)
