"""The point of each row that is nearest to success: where a later search may begin."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.rows.looks import free_to_look
from robustbench_lite.search.slots import Slots
from robustbench_lite.threat import ThreatModel


def keep_lowest(
    slots: Slots, points: Tensor, margins: Tensor, valid: Tensor, threat: ThreatModel
) -> Slots:
    """Take into ``slots`` the points whose margin is below those that were seen before.

    Args:
        slots: the rows, B of them.
        points: what was asked about, (B, C, H, W) or (B, P, C, H, W).
        margins: how far each is from success, (B, P).
        valid: points that count, (B, P) bool.
        threat: points outside of its ball do not count.
    """
    margins = margins.to(slots.lowest_margin.dtype)
    margin, which = margins.masked_fill(~valid, float("inf")).min(1)
    if points.dim() == 5:
        points = points[torch.arange(len(which), device=which.device), which]
    lower = margin < slots.lowest_margin
    if free_to_look(lower):  # few points are lower: a copy of all rows costs more than the rest
        row = lower.nonzero().squeeze(1)
        row = row[threat.excess(points[row], slots.x[row]) <= 0]
        slots.lowest.index_copy_(0, row, points[row])
        slots.lowest_margin.index_copy_(0, row, margin[row])
        return slots
    lower &= threat.excess(points, slots.x) <= 0
    return slots.replace(
        lowest=torch.where(lower.reshape(-1, 1, 1, 1), points, slots.lowest),
        lowest_margin=torch.where(lower, margin, slots.lowest_margin),
    )
