"""The squeezers of feature squeezing (Xu, Evans and Qi 2018, arXiv:1704.01155, section II): modules
from images to images.

Each takes (B, C, H, W) in [0, 1] to the same shape, row by row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustbench_lite.model.layers import Pointwise


class BitDepth(Pointwise):
    """Round every value to ``bits`` bits (section II-A)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = (x * self.levels).round() / self.levels
        return rounded


class SoftBitDepth(nn.Module):
    """``BitDepth`` forward; backward a staircase of ramps, each the middle of a tanh, instead of
    the vertical risers.

    With the gradient of the identity every value would count alike. Here those near a riser count
    most, which is where a small step changes the rounded value: a projected gradient step in L2
    spends its length there (in Linf both do the same).
    """

    STEEPNESS = 5.0
    """Between the best for 1 bit and for 3, on two data sets: docs/explanation/adaptive.md has the
    table.
    """

    def __init__(self, hard: BitDepth) -> None:
        super().__init__()
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        values = x * self.hard.levels
        step = values.detach().clamp(0, self.hard.levels - 0.5).floor()
        ramp = (self.STEEPNESS * (values - step - 0.5)).tanh() / (
            2 * math.tanh(self.STEEPNESS / 2) * self.hard.levels
        )
        shown: Tensor = ramp + (self.hard(x.detach()) - ramp).detach()
        return shown


class Median(nn.Module):
    """The median of a ``size`` x ``size`` window, channel by channel (section II-B1):
    ``scipy.ndimage.median_filter``.

    An even window takes the upper of its two middle values, and reaches one pixel further up and to
    the left.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        before = self.size // 2
        padded = mirrored(x, before, self.size - 1 - before)
        height, width = x.shape[2:]
        steps = range(self.size)
        values = torch.stack(
            [padded[..., i : i + height, j : j + width] for i in steps for j in steps], dim=-1
        )  # (B, C, H, W, size^2)
        return values.kthvalue(self.size**2 // 2 + 1, dim=-1).values


class NonLocalMeans(nn.Module):
    """Each pixel becomes the mean over a ``search`` x ``search`` window, weighted by how alike the
    patches around them are.

    Buades et al. 2005; section II-B2. The weight of a pixel is exp(-d / strength^2), d the mean
    squared difference between its ``patch`` x ``patch`` surroundings and those of the centre, over
    all channels.
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
        wide = mirrored(x, centre + reach, centre + reach)
        patches = wide[
            ..., centre : centre + x.shape[2] + 2 * reach, centre : centre + x.shape[3] + 2 * reach
        ]
        total = torch.zeros_like(x)
        weight = torch.zeros_like(x[:, :1])
        for row in range(self.search):
            strip = wide[..., row : row + patches.shape[2], :]
            if torch.is_grad_enabled() and x.requires_grad:
                part: tuple[Tensor, Tensor] = checkpoint(
                    self._strip, strip, patches, use_reentrant=False
                )
            else:
                part = self._strip(strip, patches)
            total = total + part[0]
            weight = weight + part[1]
        return total / weight

    def _strip(self, strip: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum and sum of weights over one row of the search window."""
        reach, (height, width) = self.patch // 2, patches.shape[2:]
        total = weight = patches.new_zeros(())
        for column in range(self.search):
            shifted = strip[..., column : column + width]
            difference = (shifted - patches).square().mean(1, keepdim=True)
            alike = (_box(difference, self.patch) * (-1 / self.strength**2)).exp()  # (B, 1, H, W)
            total = total + alike * shifted[..., reach : height - reach, reach : width - reach]
            weight = weight + alike
        return total, weight


class StraightThrough(nn.Module):
    """A squeezer whose gradient is that of the identity (BPDA, Athalye et al. 2018,
    arXiv:1802.00420, section 4.1).
    """

    def __init__(self, squeezer: nn.Module) -> None:
        super().__init__()
        self.squeezer = squeezer

    def forward(self, x: Tensor) -> Tensor:
        shown: Tensor = x + (self.squeezer(x.detach()) - x).detach()
        return shown


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """``x`` with its border mirrored, the outermost pixel included, by so many pixels on the top
    and left, bottom and right.
    """
    height, width = (_mirror(size, before, after, x.device) for size in x.shape[2:])
    return x[:, :, height][:, :, :, width]


def _box(x: Tensor, size: int) -> Tensor:
    """Means of ``size`` x ``size`` windows; sums along one side and then the other are quicker than
    pooling.
    """
    height = x.shape[2] - size + 1
    width = x.shape[3] - size + 1
    columns = torch.stack([x[..., k : k + height, :] for k in range(size)]).sum(0)
    return torch.stack([columns[..., k : k + width] for k in range(size)]).sum(0) / size**2


def _mirror(size: int, before: int, after: int, device: torch.device) -> Tensor:
    index = torch.arange(-before, size + after, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
