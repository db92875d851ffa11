"""Proximal operators: what a point becomes when its norm is weighed against its distance to it.

Each one gives the minimum over z of weight |z| + |z - delta|^2 / 2, one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_lite.threat.levels import soft_level
from robustbench_lite.threat.norms import per_row

Proximal = Callable[[Tensor, Tensor], Tensor]
"""(delta (B, C, H, W), weight (B,)) -> (B, C, H, W)."""


def shrink_linf(delta: Tensor, weight: Tensor) -> Tensor:
    """Cut the largest values to a level at which ``weight`` is cut off in all (Moreau)."""
    flat = delta.flatten(1)
    level = soft_level(flat.abs(), weight).unsqueeze(1)
    return torch.maximum(torch.minimum(flat, level), -level).reshape(delta.shape)


def shrink_l2(delta: Tensor, weight: Tensor) -> Tensor:
    """Shorten by ``weight``."""
    length = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(1e-12)
    return delta * per_row((1 - weight / length).clamp_min(0), delta)


def shrink_l1(delta: Tensor, weight: Tensor) -> Tensor:
    """Take ``weight`` off each value."""
    limit = per_row(weight, delta)
    return delta - torch.maximum(torch.minimum(delta, limit), -limit)


def shrink_two_thirds(delta: Tensor, weight: Tensor) -> Tensor:
    """Weigh the power 2/3 of each pixel's length over the channels, which stands for L0.

    The length m becomes the largest root of z - m + 2/3 weight z^(-1/3) = 0: in z = s^3 a quartic
    of closed form. Where there is none, or 0 costs less, it is 0 (Cao, Sun and Xu 2013, "Fast image
    deconvolution using closed-form thresholding formulas of Lq (q = 1/2, 2/3) regularization").
    """
    length = torch.linalg.vector_norm(delta, dim=1, keepdim=True)  # (B, 1, H, W)
    level = per_row(weight, length)
    sixteenth = length.square() / 16
    inner = sixteenth.square() - level**3 * (8 / 729)
    root = inner.clamp_min(0).sqrt()
    # The two cube roots multiply to 2/9 level, and the smaller one would lose all its digits.
    large = (sixteenth + root) ** (1 / 3)
    sum_ = 2 * (large + level * (2 / 9) / large.clamp_min(1e-12))
    side = sum_.sqrt().clamp_min(1e-12)
    kept = (((2 * length / side - sum_).clamp_min(0).sqrt() + side) / 2) ** 3
    holds = (inner >= 0) & (kept ** (4 / 3) >= level * (2 / 3))
    share = torch.where(holds, kept / length.clamp_min(1e-12), 0)
    return delta * share.clamp_max(1)


PROXIMALS: dict[str, Proximal] = {
    "l0": shrink_two_thirds,
    "l1": shrink_l1,
    "l2": shrink_l2,
    "linf": shrink_linf,
}
