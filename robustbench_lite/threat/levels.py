"""Levels at which magnitudes are cut so that a sum comes out right, one a row.

Newton's method instead of a sort: the sums are convex and piecewise linear in the level, so it goes
up to the root from below and is there after a few rounds, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.rows.looks import surely_all

ROUNDS = 30
"""At most; ten are common. A row that is done stays where it is in the others."""

CLOSE = 1 + 1e-6
"""A level that rises by less has arrived: sums in float32 know no better."""


def soft_level(magnitude: Tensor, radius: Tensor) -> Tensor:
    """Find what to take off all magnitudes, down to 0, so that their sum is ``radius``.

    That is the projection on the ball of L1 (Michelot 1986, "A finite algorithm for finding the
    projection of a point onto the canonical simplex of R^n").

    Args:
        magnitude: at least 0, (B, N).
        radius: at least 0, (B,).

    Returns:
        (B,), at least 0: 0 in rows that lie in the ball already.
    """
    level = ((magnitude.sum(1) - radius) / magnitude.shape[1]).clamp_min(0)
    for _ in range(ROUNDS):
        above = magnitude > level.unsqueeze(1)
        total = torch.linalg.vecdot(magnitude, above.to(magnitude.dtype))
        raised = ((total - radius) / above.sum(1).clamp_min(1)).maximum(level)
        still = raised <= level * CLOSE
        level = torch.where(still, level, raised)
        if surely_all(still):
            break
    return level
