"""Convolutions and pools as maps of windows.

A convolution maps small windows by a matrix, one for each offset of the window from the stride's
grid, and slides over larger ones. A pool of largest values looks at the base's own values around
the pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.model.fast.windows.pixels import (
    Axes,
    Axis,
    Cut,
    Spread,
    Windows,
    by_group,
    table,
)
from robustbench_lite.model.fast.windows.rules import Rule, clear
from robustbench_lite.rows.rows import SMALLEST_BATCH, at_least

Pair = tuple[int, int]


@dataclass(frozen=True)
class Slide:
    """A kernel that slides over a layer, along one axis.

    It leads from the windows of its input to those of its output.
    """

    before: Axis
    after: Axis
    field: Axis
    """What the windows of ``after`` are made of.

    These are windows of the input, large enough to hold those of ``before``.
    """
    stride: int
    remainders: tuple[int, ...]
    """By how many positions the field starts late, for each pixel: below ``stride``."""

    @classmethod
    def of(
        cls, before: Axis, kernel: int, stride: int, padding: int, dilation: int, size: int
    ) -> Slide:
        """Follow a kernel of ``kernel`` taps to an output of ``size`` positions."""
        reach = (kernel - 1) * dilation
        starts = tuple(-((reach - padding - at) // stride) for at in before.starts)  # rounded up
        lasts = ((at + before.length - 1 + padding) // stride for at in before.starts)
        length = max(1, *(last - start + 1 for last, start in zip(lasts, starts, strict=True)))
        fields = tuple(start * stride - padding for start in starts)
        remainders = tuple(
            field + reach - at for field, at in zip(fields, before.starts, strict=True)
        )
        field = Axis(fields, (length - 1) * stride + reach + 1, before.size)
        return cls(before, Axis(starts, length, size), field, stride, remainders)

    def taps(self, kernel: int, dilation: int) -> Tensor:
        """Find the tap that joins position i of a window with position a of its output.

        Returns:
            (stride, h, h') int64; ``kernel`` where there is none.
        """
        positions = torch.arange(self.before.length)[:, None]
        into = positions - self.stride * torch.arange(self.after.length)
        reached = (kernel - 1) * dilation - torch.arange(self.stride)[:, None, None] + into
        tap = reached.div(dilation, rounding_mode="floor")
        return torch.where((reached % dilation == 0) & (tap >= 0) & (tap < kernel), tap, kernel)


@dataclass(frozen=True)
class WindowedConvolution(Rule):
    """A convolution of small windows."""

    makes_anew: ClassVar[bool] = True
    after: Axes
    slides: tuple[Slide, Slide]
    matrices: Tensor
    """What a window becomes, (sh sw, h w C, h' w' O).

    There is one for each offset of its first position from the stride's grid.
    """

    @classmethod
    def of(cls, weight: Tensor, slides: tuple[Slide, Slide], dilation: Pair) -> WindowedConvolution:
        """``weight`` (O, C, kh, kw)."""
        rows, columns = (
            slide.taps(*part)
            for slide, *part in zip(slides, weight.shape[2:], dilation, strict=True)
        )
        # A last tap of 0, for pairs of positions that the kernel does not join.
        padded = F.pad(weight, (0, 1, 0, 1))
        # (sh, 1, h, 1, h', 1) and (1, sw, 1, w, 1, w') of taps -> (O, C, sh, sw, h, w, h', w')
        joint = padded[:, :, rows[:, None, :, None, :, None], columns[None, :, None, :, None, :]]
        ordered = joint.permute(2, 3, 4, 5, 1, 6, 7, 0)
        matrices = ordered.reshape(
            len(rows) * len(columns), rows.shape[1] * columns.shape[1] * weight.shape[1], -1
        )
        return cls(Axes(*(slide.after for slide in slides)), slides, matrices.contiguous())

    @property
    def cost(self) -> int:
        return int(self.matrices[0].numel())

    @property
    def reaches_out(self) -> bool:
        return True

    def scale(self, factor: Tensor) -> WindowedConvolution:
        """With the output's channels times ``factor`` (O,)."""
        return replace(self, matrices=self.matrices * factor.repeat(self.after.area))

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        (windows,), (high, wide) = inputs, self.slides
        lower = table(high.remainders)[windows.row]
        right = table(wide.remainders)[windows.column]
        windows, products = by_group(windows, lower * wide.stride + right, self.matrices)
        shape = (len(products), high.after.length, wide.after.length, -1)
        return windows._replace(change=products.reshape(shape))


@dataclass(frozen=True)
class _Sliding(Rule):
    """Base of what has a kernel that slides over each window."""

    after: Axes
    spread: Spread
    channels: int
    stride: Pair

    @property
    def reaches_out(self) -> bool:
        return True

    @property
    def scratch(self) -> int:
        return self.spread.after.area * self.channels


@dataclass(frozen=True)
class SlidConvolution(_Sliding):
    """A convolution of large windows."""

    weight: Tensor
    dilation: Pair
    groups: int

    @property
    def cost(self) -> int:
        return self.after.area * int(self.weight.numel())

    def scale(self, factor: Tensor) -> SlidConvolution:
        """With the output's channels times ``factor`` (O,)."""
        return replace(self, weight=self.weight * factor.reshape(-1, 1, 1, 1))

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        count = len(inputs[0].owner)
        field = at_least(self.spread(inputs[0]), SMALLEST_BATCH).permute(0, 3, 1, 2)
        change = F.conv2d(field, self.weight, None, self.stride, 0, self.dilation, self.groups)
        return inputs[0]._replace(change=change[:count].permute(0, 2, 3, 1))


@dataclass(frozen=True)
class AveragePool(_Sliding):
    """A pool of means."""

    kernel: Pair
    divisor: int | None

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        field = self.spread(inputs[0]).permute(0, 3, 1, 2)
        change = F.avg_pool2d(field, self.kernel, self.stride, divisor_override=self.divisor)
        return inputs[0]._replace(change=change.permute(0, 2, 3, 1))


@dataclass(frozen=True)
class MaxPool(_Sliding):
    """A pool of largest values."""

    kernel: Pair
    dilation: Pair

    @property
    def clears(self) -> bool:
        return True

    def prepare(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        return self._field.prepare(inputs[0]), self._output.prepare(output)

    @property
    def _field(self) -> Cut:
        return Cut(self.spread.after, float("-inf"))

    @property
    def _output(self) -> Cut:
        return Cut(self.after, 0.0)

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        (windows,), (field, output) = inputs, known
        moved = self._field(field, windows).add_(self.spread(windows)).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(moved, self.kernel, self.stride, 0, self.dilation).permute(0, 2, 3, 1)
        change = pooled - self._output(output, windows)
        return windows._replace(change=clear(change, windows, self.after))
