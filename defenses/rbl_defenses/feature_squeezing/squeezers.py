"""The squeezers of feature squeezing (Xu, Evans and Qi 2018, arXiv:1704.01155, section II).

Each is a module that takes images (B, C, H, W) in [0, 1] to the same shape, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.search import Pointwise


class BitDepth(Pointwise):
    """Round every value to ``bits`` bits (section II-A)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = (x * self.levels).round() / self.levels
        return rounded


class Median(nn.Module):
    """Take the median of a ``size`` x ``size`` window, channel by channel (section II-B1).

    As in ``scipy.ndimage.median_filter`` an even window takes the upper of its two middle values,
    and reaches one pixel further up and to the left.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        before = self.size // 2
        padded = mirrored(x, before, self.size - 1 - before)
        height, width = x.shape[2:]
        steps = range(self.size)
        shifted = [padded[..., i : i + height, j : j + width] for i in steps for j in steps]
        values = torch.stack(shifted, dim=-1)  # (B, C, H, W, size^2)
        return values.kthvalue(self.size**2 // 2 + 1, dim=-1).values


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """Mirror the border of ``x``, the outermost pixel included.

    Args:
        x: (B, C, H, W).
        before: pixels that are added on the top and on the left.
        after: pixels that are added on the bottom and on the right.
    """
    height, width = (_mirror(size, before, after, x.device) for size in x.shape[2:])
    return x[:, :, height][:, :, :, width]


def _mirror(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Say which of ``size`` pixels stands at each place."""
    index = torch.arange(-before, size + after, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
