"""Non-local means, a squeezer of feature squeezing (Xu, Evans and Qi 2018, arXiv:1704.01155)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rbl_defenses.feature_squeezing.squeezers import mirrored


class Sums(NamedTuple):
    """What a part of the search window adds to each pixel."""

    total: Tensor
    """The weighted sum, (B, C, H, W)."""
    weight: Tensor
    """The sum of the weights, (B, 1, H, W)."""


class NonLocalMeans(nn.Module):
    """Make each pixel the mean over a window, weighted by how alike the patches around them are.

    Buades et al. 2005; section II-B2. In the ``search`` x ``search`` window the weight of a pixel
    is exp(-d / strength^2), d the mean squared difference between its ``patch`` x ``patch``
    surroundings and those of the centre, over all channels.
    """

    def __init__(self, search: int, patch: int, strength: float) -> None:
        super().__init__()
        self.search = search
        self.patch = patch
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        # The window of a row at a time: kept whole, the intermediates of a gradient would fill
        # gigabytes.
        centre = self.search // 2
        reach = self.patch // 2
        height, width = (edge + 2 * reach for edge in x.shape[2:])
        wide = mirrored(x, centre + reach, centre + reach)
        patches = wide[..., centre : centre + height, centre : centre + width]
        total = torch.zeros_like(x)
        weight = torch.zeros_like(x[:, :1])
        for row in range(self.search):
            strip = wide[..., row : row + height, :]
            if torch.is_grad_enabled() and x.requires_grad:
                sums: Sums = checkpoint(self._sum, strip, patches, use_reentrant=False)
            else:
                sums = self._sum(strip, patches)
            total = total + sums.total
            weight = weight + sums.weight
        return total / weight

    def _sum(self, strip: Tensor, patches: Tensor) -> Sums:
        """Add up one row of the search window."""
        reach = self.patch // 2
        height, width = patches.shape[2:]
        total = weight = patches.new_zeros(())
        for column in range(self.search):
            shifted = strip[..., column : column + width]
            difference = (shifted - patches).square().mean(1, keepdim=True)
            alike = (_box(difference, self.patch) * (-1 / self.strength**2)).exp()  # (B, 1, H, W)
            total = total + alike * shifted[..., reach : height - reach, reach : width - reach]
            weight = weight + alike
        return Sums(total, weight)


def _box(x: Tensor, size: int) -> Tensor:
    """Take the means of ``size`` x ``size`` windows."""
    # Sums along one side and then the other are quicker than pooling.
    height = x.shape[2] - size + 1
    width = x.shape[3] - size + 1
    columns = torch.stack([x[..., k : k + height, :] for k in range(size)]).sum(0)
    return torch.stack([columns[..., k : k + width] for k in range(size)]).sum(0) / size**2
