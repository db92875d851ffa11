"""How ZOO moves a coordinate (Chen et al. 2017, arXiv:1708.03999): differences, Adam's step and Newton's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEP = {"adam": 1e-4, "newton": 1e-2}
"""h of equation 6. Newton's second difference divides by h^2: at the paper's 1e-4 float32 leaves nothing but rounding."""
_FIRST, _SECOND, _GUARD = 0.9, 0.999, 1e-8  # Adam's, as in algorithm 2
_FLATTEST = 0.1
"""Floor of Newton's curvature; where it is not positive 1 takes its place (the authors' code, algorithm 3)."""


class Slopes(NamedTuple):
    """First and second derivative by each of n coordinates, (B, n); the second may be nan or infinite."""

    slope: Tensor
    curvature: Tensor


def differences(values: Tensor, own: Tensor, up: Tensor, down: Tensor) -> Slopes:
    """From ``values`` (B, 2 n + 1) at the image, and with coordinates at ``up`` and at ``down`` (B, n) instead of ``own``."""
    here, (above, below) = values[:, :1], values[:, 1:].chunk(2, 1)
    # At a bound there is one side only and no second difference.
    curvature = ((above - here) / (up - own) - (here - below) / (own - down)) * 2 / (up - down)
    return Slopes((above - below) / (up - down), curvature)


def newton(total: Slopes) -> Tensor:
    """Slope over curvature (algorithm 3), (B, n)."""
    curved = (total.curvature > 0) & total.curvature.isfinite()
    return total.slope / torch.where(curved, total.curvature.clamp_min(_FLATTEST), 1.0)


class AdamStep(NamedTuple):
    move: Tensor
    """(B, n)."""
    moments: Tensor
    """(B, 3, n): both moments, and how often each coordinate has moved."""


def adam(slope: Tensor, moments: Tensor) -> AdamStep:
    """Each coordinate with the bias correction of its own count (algorithm 2)."""
    mean, square, count = moments.unbind(1)
    mean, square, count = _FIRST * mean + (1 - _FIRST) * slope, _SECOND * square + (1 - _SECOND) * slope**2, count + 1
    move = (1 - _SECOND**count).sqrt() / (1 - _FIRST**count) * mean / (square.sqrt() + _GUARD)
    return AdamStep(move, torch.stack([mean, square, count], 1))
