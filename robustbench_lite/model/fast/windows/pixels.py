"""The change of one pixel inside a network: a small window of each layer, around the pixel.

Where a window starts follows from where the pixel is, so an ``Axis`` lists it for every pixel once
and for all. What windows start from, reach into and are added to are then tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.rows.rows import at_least

SMALLEST_GROUP = 8
"""Smaller matrix products are padded.

Below it kernels change, and the last bits of a row with its company.
"""


class Axis(NamedTuple):
    """Where windows lie along one axis of a layer's output.

    The layer has positions 0 to ``size`` - 1; a window may hang over its edges, where nothing
    changes.
    """

    starts: tuple[int, ...]
    """The first position of the window of each pixel along this axis."""
    length: int
    size: int

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind the window of each pixel."""
        return tuple(start + self.length for start in self.starts)

    @property
    def first(self) -> int:
        """The first position of any window."""
        return min(self.starts)

    @property
    def before(self) -> int:
        """Positions that windows reach beyond the front edge."""
        return max(0, -self.first)

    @property
    def after(self) -> int:
        """Positions that windows reach beyond the back edge."""
        return max(0, max(self.starts) + self.length - self.size)

    @property
    def places(self) -> int:
        """Positions at which a window may start, those between them included."""
        return max(self.starts) - self.first + 1

    @property
    def inside(self) -> bool:
        """No window hangs over an edge."""
        return self.before == self.after == 0


class Axes(NamedTuple):
    """Rows and columns."""

    high: Axis
    wide: Axis

    @property
    def area(self) -> int:
        """Positions in a window."""
        return self.high.length * self.wide.length

    @property
    def inside(self) -> bool:
        return self.high.inside and self.wide.inside

    @classmethod
    def whole(cls, shape: Sequence[int], pixels: Axes) -> Axes:
        """Make windows that are all of a layer of ``shape`` (H, W)."""
        axes = zip(shape, pixels, strict=True)
        return cls(*(Axis((0,) * len(pixel.starts), size, size) for size, pixel in axes))


class Windows(NamedTuple):
    """The change of a layer's output at N points, in any order, from the output at their base."""

    change: Tensor
    """(N, h, w, C), or (N, F) where there are no places any more."""
    row: Tensor
    """The pixel's own row in the image, (N,) int64."""
    column: Tensor
    owner: Tensor
    """Row of the base, (N,) int64."""
    number: Tensor
    """Which point it is, (N,) int64."""

    def take(self, order: Tensor | slice) -> Windows:
        return Windows(*(part[order] for part in self))

    def as_ordered_in(self, other: Windows) -> Windows:
        """Give the same points in the order of ``other``."""
        if self.number is other.number:
            return self
        at = torch.empty_like(self.number)
        at[self.number] = torch.arange(len(at), device=at.device)
        return self.take(at[other.number])


@dataclass(frozen=True)
class Spread:
    """Windows put into larger ones, with 0 around them."""

    before: Axes
    after: Axes

    def __call__(self, windows: Windows) -> Tensor:
        """(N, h', w', C). What has no place there is left out."""
        if self.before == self.after:
            return windows.change
        gaps = [_gaps(*axes) for axes in zip(self.before, self.after, strict=True)]
        if all(len(set(gap)) == 1 for gap in gaps):
            (top, *_), (left, *_) = gaps
            bottom = self.after.high.length - self.before.high.length - top
            right = self.after.wide.length - self.before.wide.length - left
            return F.pad(windows.change, (0, 0, left, right, top, bottom))
        return self._gather(windows, *map(table, gaps))

    def _gather(self, windows: Windows, tops: Tensor, lefts: Tensor) -> Tensor:
        change, (high, wide) = windows.change, self.after
        row = torch.arange(high.length) - tops[windows.row, None]  # (N, h')
        column = torch.arange(wide.length) - lefts[windows.column, None]  # (N, w')
        count, lower, right, channels = change.shape
        row_known = (row >= 0) & (row < lower)
        column_known = (column >= 0) & (column < right)
        known = row_known[:, :, None] & column_known[:, None, :]  # (N, h', w')
        first = torch.arange(count)[:, None] * lower
        at = (first + row)[:, :, None] * right + column[:, None, :]  # (N, h', w')
        at = torch.where(known, at, count * lower * right)  # the row of zeros behind them all
        rows = torch.cat([change.reshape(-1, channels), change.new_zeros(1, channels)])
        return rows.index_select(0, at.flatten()).reshape(count, high.length, wide.length, channels)


def _gaps(before: Axis, after: Axis) -> tuple[int, ...]:
    """Find where in its new window the old one starts, for each pixel."""
    return tuple(old - new for old, new in zip(before.starts, after.starts, strict=True))


@lru_cache(maxsize=1024)
def table(numbers: tuple[int, ...]) -> Tensor:
    """``numbers``, one for each pixel, to be looked up; not to be written to."""
    return torch.tensor(numbers)


@dataclass(frozen=True)
class Cut:
    """The windows of each point's base."""

    axes: Axes
    beyond: float
    """What is beyond the edges."""

    def prepare(self, output: Tensor) -> Tensor:
        """``output`` (B, C, H, W) as windows are cut from it."""
        high, wide = self.axes
        edges = (wide.before, wide.after, high.before, high.after)
        return F.pad(output, edges, value=self.beyond).permute(0, 2, 3, 1).contiguous()

    def __call__(self, padded: Tensor, windows: Windows) -> Tensor:
        """(N, h, w, C), new."""
        high, wide = self.axes
        row = table(high.starts)[windows.row]
        column = table(wide.starts)[windows.column]
        _, rows, columns, channels = padded.shape
        first_row = windows.owner * rows + row + high.before
        first = first_row * columns + column + wide.before
        offset = torch.arange(high.length)[:, None] * columns + torch.arange(wide.length)
        at = (first[:, None] + offset.flatten()).flatten()
        cut = padded.flatten(0, 2).index_select(0, at)
        return cut.reshape(len(first), high.length, wide.length, channels)


def join(axes: Sequence[Axis]) -> Axis:
    """Find the smallest windows that hold those of all ``axes``."""
    starts = tuple(map(min, zip(*(axis.starts for axis in axes), strict=True)))
    ends = map(max, zip(*(axis.ends for axis in axes), strict=True))
    length = max(end - start for start, end in zip(starts, ends, strict=True))
    return Axis(starts, length, axes[0].size)


def outside(windows: Windows, axes: Axes) -> Tensor:
    """Mark positions of the windows that lie beyond the layer's edges, (N, h, w) bool."""
    pixels = zip(axes, (windows.row, windows.column), strict=True)
    at = (table(axis.starts)[pixel, None] + torch.arange(axis.length) for axis, pixel in pixels)
    row, column = ((part < 0) | (part >= axis.size) for part, axis in zip(at, axes, strict=True))
    return row[:, :, None] | column[:, None, :]


class Products(NamedTuple):
    """Changes times matrices."""

    windows: Windows
    """The windows, in the order of the products."""
    products: Tensor
    """(N, E)."""


def by_group(windows: Windows, group: Tensor, matrices: Tensor) -> Products:
    """Multiply the change of each window by the matrix of its group.

    Args:
        windows: N windows, whose changes have D values each.
        group: which of the matrices is theirs, (N,) int64.
        matrices: (G, D, E).

    Returns:
        The products and the windows, sorted by group.
    """
    counts = [len(group)]
    if len(matrices) > 1:
        windows = windows.take(group.argsort())
        counts = torch.bincount(group, minlength=len(matrices)).tolist()
    rows = windows.change.flatten(1)
    products = rows.new_empty(len(rows), matrices.shape[2])
    for part, out, matrix in zip(
        torch.split(rows, counts), torch.split(products, counts), matrices, strict=True
    ):
        if len(part) >= SMALLEST_GROUP:
            torch.mm(part, matrix, out=out)
        elif len(part):
            out.copy_((at_least(part, SMALLEST_GROUP) @ matrix)[: len(part)])
    return Products(windows, products)
