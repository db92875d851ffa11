"""The change of one pixel on its way through a network: a small window of each layer, as far as the first linear one.

A convolution maps a window by a small matrix, one for each offset of the window from the stride's grid; the first linear layer
by the columns that belong to the window's place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.search.convolution import Pair
from robustbench_lite.search.rows import at_least

SMALLEST_GROUP = 8
"""Smaller matrix products are padded: below it kernels change, and the last bits of a row with its company."""


class Axis(NamedTuple):
    """Where windows lie along one axis of a layer's output: they start at ``first`` to ``last`` and are ``length`` long.

    The layer has positions 0 to ``size`` - 1; a window may hang over its edges, where nothing changes.
    """

    first: int
    last: int
    length: int
    size: int

    @property
    def before(self) -> int:
        """Positions that windows reach beyond the front edge."""
        return max(0, -self.first)

    @property
    def after(self) -> int:
        return max(0, self.last + self.length - self.size)

    @property
    def places(self) -> int:
        return self.last - self.first + 1


class Windows(NamedTuple):
    """The change of a layer's output at N points, in any order, from the output at their base."""

    change: Tensor
    """(N, h, w, C)."""
    row: Tensor
    """First row of each window, (N,) int64."""
    column: Tensor
    owner: Tensor
    """Row of the base, (N,) int64."""
    number: Tensor
    """Which point it is, (N,) int64."""

    def take(self, order: Tensor) -> Windows:
        return Windows(*(part[order] for part in self))


@dataclass(frozen=True)
class WindowedConvolution:
    """One convolution with its ReLU, as a map of windows."""

    weight: Tensor
    stride: Pair
    padding: Pair
    after: tuple[Axis, Axis]
    matrices: Tensor
    """(sh sw, h w C, h' w' O): what a window becomes, for each offset of its first position from the stride's grid."""

    @classmethod
    def of(cls, layer: nn.Conv2d, before: tuple[Axis, Axis]) -> WindowedConvolution:
        weight, (stride, padding) = layer.weight.detach(), _steps(layer)
        after = axes_after(layer, before)
        rows, columns = (_taps(*part) for part in zip(before, after, weight.shape[2:], stride, strict=True))
        padded = F.pad(weight, (0, 1, 0, 1))  # a last tap of 0, for pairs of positions that the kernel does not join
        # (sh, 1, h, 1, h', 1) and (1, sw, 1, w, 1, w') of taps -> (O, C, sh, sw, h, w, h', w')
        joined = padded[:, :, rows[:, None, :, None, :, None], columns[None, :, None, :, None, :]]
        ordered = joined.permute(2, 3, 4, 5, 1, 6, 7, 0)
        matrices = ordered.reshape(stride[0] * stride[1], before[0].length * before[1].length * weight.shape[1], -1)
        return cls(weight, stride, padding, after, matrices.contiguous())

    @property
    def cost(self) -> int:
        return int(self.matrices[0].numel())

    @property
    def whole_cost(self) -> int:
        return int(self.weight.numel()) * self.after[0].size * self.after[1].size

    def __call__(self, windows: Windows) -> Windows:
        """The change before the ReLU."""
        row, lower = self._first_output(windows.row, 0)
        column, right = self._first_output(windows.column, 1)
        windows, change = _by_group(windows._replace(row=row, column=column), lower * self.stride[1] + right, self.matrices)
        shape = (self.after[0].length, self.after[1].length, len(self.weight))
        return windows._replace(change=change.reshape(len(change), *shape))

    def _first_output(self, at: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The first output that sees a window which starts at ``at`` (N,), and by how little the kernel reaches that start."""
        reach, stride, padding = self.weight.shape[2 + axis] - 1, self.stride[axis], self.padding[axis]
        start = -((reach - padding - at) // stride)  # rounded up
        return start, reach - (at + padding - stride * start)


@dataclass(frozen=True)
class WindowedLinear:
    """The linear layer behind the flattened windows."""

    matrices: Tensor
    """(places, h w C, K)."""
    before: tuple[Axis, Axis]

    @classmethod
    def of(cls, layer: nn.Linear, before: tuple[Axis, Axis]) -> WindowedLinear:
        (high, wide), outputs = before, layer.out_features
        weight = layer.weight.detach().reshape(outputs, -1, high.size, wide.size).permute(2, 3, 1, 0)  # (H, W, C, K)
        padded = F.pad(weight, (0, 0, 0, 0, wide.before, wide.after, high.before, high.after))
        # Windows start at the same places in the padded layer, (rows, columns, C, K, h, w).
        unfolded = padded[high.first + high.before :, wide.first + wide.before :]
        unfolded = unfolded.unfold(0, high.length, 1)[: high.places].unfold(1, wide.length, 1)[:, : wide.places]
        ordered = unfolded.permute(0, 1, 4, 5, 2, 3)
        return cls(ordered.reshape(high.places * wide.places, -1, outputs).contiguous(), before)

    @property
    def cost(self) -> int:
        return int(self.matrices[0].numel())

    def __call__(self, windows: Windows) -> tuple[Windows, Tensor]:
        """The change of the layer's output, (N, K), with the windows in its order."""
        high, wide = self.before
        place = (windows.row - high.first) * wide.places + windows.column - wide.first
        return _by_group(windows, place, self.matrices)


def _by_group(windows: Windows, group: Tensor, matrices: Tensor) -> tuple[Windows, Tensor]:
    """The windows sorted by ``group`` (N,), and the products of their changes with its ``matrices``, (N, E)."""
    counts = [len(group)]
    if len(matrices) > 1:
        windows, counts = windows.take(group.argsort()), torch.bincount(group, minlength=len(matrices)).tolist()
    rows = windows.change.flatten(1)
    products = rows.new_empty(len(rows), matrices.shape[2])
    for part, out, matrix in zip(torch.split(rows, counts), torch.split(products, counts), matrices, strict=True):
        if len(part) >= SMALLEST_GROUP:
            torch.mm(part, matrix, out=out)
        elif len(part):
            out.copy_((at_least(part, SMALLEST_GROUP) @ matrix)[: len(part)])
    return windows, products


def windows_of(output: Tensor, windows: Windows, axes: tuple[Axis, Axis]) -> Tensor:
    """The windows of each point's base, (N, h, w, C), from ``output`` (B, C, H, W); minus infinity beyond its edges."""
    high, wide = axes
    edges = (wide.before, wide.after, high.before, high.after)
    padded = F.pad(output, edges, value=float("-inf")).permute(0, 2, 3, 1).contiguous()
    first = (windows.owner * padded.shape[1] + windows.row + high.before) * padded.shape[2] + windows.column + wide.before
    offset = torch.arange(high.length, device=first.device)[:, None] * padded.shape[2]
    offset = (offset + torch.arange(wide.length, device=first.device)).flatten()
    at = (first[:, None] + offset).flatten()
    return padded.flatten(0, 2).index_select(0, at).reshape(len(first), high.length, wide.length, padded.shape[3])


def axes_after(layer: nn.Conv2d, before: tuple[Axis, Axis]) -> tuple[Axis, Axis]:
    """Where windows lie behind ``layer``."""
    (high, wide), (stride, padding), (kh, kw) = before, _steps(layer), layer.weight.shape[2:]
    return _axis_after(high, kh, stride[0], padding[0]), _axis_after(wide, kw, stride[1], padding[1])


def entries(layer: nn.Conv2d, before: tuple[Axis, Axis]) -> int:
    """How many numbers the matrices of ``layer`` hold."""
    outputs, inputs = layer.weight.shape[:2]
    positions = [axis.length for axis in (*before, *axes_after(layer, before))]
    return math.prod([*_steps(layer)[0], outputs, inputs, *positions])


def _steps(layer: nn.Conv2d) -> tuple[Pair, Pair]:
    """Stride and padding."""
    return (layer.stride[0], layer.stride[1]), (int(layer.padding[0]), int(layer.padding[1]))


def _axis_after(before: Axis, kernel: int, stride: int, padding: int) -> Axis:
    first, last = (-((kernel - 1 - padding - at) // stride) for at in (before.first, before.last))
    length = (before.length + kernel - 2) // stride + 1
    return Axis(first, last, length, (before.size + 2 * padding - kernel) // stride + 1)


def _taps(before: Axis, after: Axis, kernel: int, stride: int) -> Tensor:
    """The tap that joins position i of a window with position a of its output, (stride, h, h'); ``kernel`` where none does."""
    offset = torch.arange(stride)[:, None, None]
    tap = kernel - 1 - offset + torch.arange(before.length)[:, None] - stride * torch.arange(after.length)
    return torch.where((tap >= 0) & (tap < kernel), tap, kernel)
