"""Projections on a ball and the image bounds together.

One after the other they end inside too, but not at the nearest point: what the bounds cut off is
lost to the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.rows.looks import surely_all

_ROUNDS = 40
"""Four or five are usual; changes as large as the whole image take 20 to 30."""
_SHARE = 1e-6
"""How near the size comes to eps."""


def project_l1_in_box(delta: Tensor, eps: Tensor, x: Tensor) -> Tensor:
    """Move each row to the nearest point (in L2) of the L1 ball that keeps the image in [0, 1].

    It is sign(delta) min(max(|delta| - level, 0), room), room being the way to the bound that the
    change goes towards (Croce and Hein 2021, arXiv:2103.01208, proposition 2.1). The level that
    makes the size eps is found by Newton's method, safe between two bounds: nothing is sorted.

    Args:
        delta: changes, (B, C, H, W).
        eps: radius of each row, (B,).
        x: the images, (B, C, H, W) in [0, 1].

    Returns:
        (B, C, H, W), of a size of at most eps; rounding can leave it 1e-6 of that short.
    """
    flat = delta.flatten(1)
    image = x.flatten(1)
    room = torch.where(flat > 0, 1 - image, image)
    size = flat.abs()
    free = size  # at this level, before the room is looked at
    kept = torch.minimum(size, room)
    low = torch.zeros_like(eps)
    level = low
    high = size.amax(1)
    for number in range(_ROUNDS):
        surplus = kept.sum(1) - eps
        settled = (surplus.abs() <= _SHARE * eps) | ((surplus <= 0) & (level == 0))
        if surely_all(settled):
            break
        low = torch.where(surplus > 0, level, low)
        high = torch.where(surplus < 0, level, high)
        guess = level + surplus / (kept == free).sum(1).clamp_min(1)
        # Where pieces of the sum are many and short, halving gets on and Newton's steps do not.
        between = (guess > low) & (guess < high) & (number % 3 < 2)
        guess = torch.where(between, guess, (low + high) / 2)
        level = torch.where(settled, level, guess)
        free = size - level.unsqueeze(1)
        kept = torch.minimum(free, room).clamp_min_(0)
    total = kept.sum(1).clamp_min(torch.finfo(kept.dtype).tiny)
    kept = kept * (eps / total).clamp(max=1).unsqueeze(1)
    return torch.copysign(kept, flat).reshape(delta.shape)
