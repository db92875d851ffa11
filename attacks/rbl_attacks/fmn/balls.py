"""Projections on balls of a radius a row, as the Fast Minimum-Norm attack needs them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_lite.rows.looks import free_to_look
from robustbench_lite.threat.levels import soft_level
from robustbench_lite.threat.norms import L2, per_row

Projection = Callable[[Tensor, Tensor], Tensor]
"""(delta (B, C, H, W), radius (B,)) -> (B, C, H, W)."""


def project_l1(delta: Tensor, radius: Tensor) -> Tensor:
    """Move each row to the nearest point of the L1 ball."""
    flat = delta.flatten(1)
    level = soft_level(flat.abs(), radius).unsqueeze(1)
    return (flat - torch.maximum(torch.minimum(flat, level), -level)).reshape(delta.shape)


def project_l0(delta: Tensor, radius: Tensor) -> Tensor:
    """Keep the ``radius`` pixels that changed the most (L2 over channels), and ties of the last."""
    weight = delta.square().sum(1).flatten(1)  # (B, H W)
    kept = radius.long().clamp(0, weight.shape[1])
    # On a CPU the few largest are found sooner than all are sorted; they are the same.
    most = max(1, int(kept.max())) if free_to_look(kept) else weight.shape[1]
    largest = weight.topk(most, dim=1).values
    least = largest.gather(1, (kept - 1).clamp_min(0).unsqueeze(1))
    keep = (weight >= least) & (kept > 0).unsqueeze(1)
    return delta * keep.reshape(len(delta), 1, *delta.shape[2:])


def project_l2(delta: Tensor, radius: Tensor) -> Tensor:
    """Shorten each row to ``radius``."""
    return L2().project(delta, radius)


def project_linf(delta: Tensor, radius: Tensor) -> Tensor:
    """Cut each value to ``radius``."""
    limit = per_row(radius, delta)
    return torch.maximum(torch.minimum(delta, limit), -limit)


PROJECTIONS: dict[str, Projection] = {
    "l0": project_l0,
    "l1": project_l1,
    "l2": project_l2,
    "linf": project_linf,
}


def stretch(radius: Tensor, size: Tensor, success: Tensor) -> Tensor:
    """Find by what to multiply deltas of the distance ``size`` (B,): 1 after a success, (B,)."""
    reach = (radius / size.clamp_min(1e-12)).clamp_min(1)
    return torch.where(success, 1, reach)
