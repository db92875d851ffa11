"""Windows: the part of a layer that one unit of a later convolution sees.

A row of coefficients that starts at one unit of a convolution is zero outside of a small rectangle,
whose place follows from the unit's by a stride and a shift that are the same for all units. Only
the rectangle is kept. It may reach over the edge of the layer (into the padding); what lies there
belongs to no unit and is masked before it can spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.bounds.graph.operations import Convolution, Pair, Shape
from robustbench_lite.machine.kernels import works_in_caches

_MANY = 6
"""Rows a sample from which on a loop over samples pays."""


class Window(NamedTuple):
    """Rows of ``size`` over a part of the layer.

    Their first entry, for a unit at position p, is at ``stride`` p - ``shift`` (height, width).
    """

    stride: Pair
    shift: Pair
    size: Pair

    def behind(self, conv: Convolution) -> Window:
        """The window of the input of ``conv`` that this window of its output sees."""
        (sh, sw), (ph, pw), (kh, kw) = conv.stride, conv.padding, conv.reach
        return Window(
            (self.stride[0] * sh, self.stride[1] * sw),
            (self.shift[0] * sh + ph, self.shift[1] * sw + pw),
            ((self.size[0] - 1) * sh + kh, (self.size[1] - 1) * sw + kw),
        )

    def with_other(self, other: Window) -> Window:
        """The smallest window around both, which have one stride."""
        down, across = map(max, zip(self.shift, other.shift, strict=True))
        bottom, right = (
            max(a - s, b - t)
            for a, s, b, t in zip(self.size, self.shift, other.size, other.shift, strict=True)
        )
        return Window(self.stride, (down, across), (bottom + down, right + across))

    def grown(self, a: Tensor, to: Window) -> Tensor:
        """Coefficients ``a`` (M, C, *size) in the larger window ``to``."""
        top = to.shift[0] - self.shift[0]
        left = to.shift[1] - self.shift[1]
        return F.pad(
            a, (left, to.size[1] - self.size[1] - left, top, to.size[0] - self.size[0] - top)
        )

    def leaves(self, shape: Shape, grid: Pair) -> bool:
        """Some unit's window reaches over an edge of a layer of ``shape``."""
        return any(
            shift > 0 or stride * (count - 1) - shift + size > side
            for stride, shift, size, count, side in zip(
                self.stride, self.shift, self.size, grid, shape[-2:], strict=True
            )
        )

    def patches(self, values: Tensor, grid: Pair) -> Tensor:
        """Cut out what each unit of ``grid`` sees of ``values`` (B, C, H, W).

        Returns:
            (B, units, C, *size), zero beyond the edges.
        """
        pads: list[int] = []
        for axis in (1, 0):
            end = self.stride[axis] * (grid[axis] - 1) - self.shift[axis] + self.size[axis]
            pads += [self.shift[axis], end - values.shape[2 + axis]]
        padded = F.pad(values, pads)
        seen = padded.unfold(2, self.size[0], self.stride[0]).unfold(
            3, self.size[1], self.stride[1]
        )
        return seen.permute(0, 2, 3, 1, 4, 5).reshape(
            len(values), grid[0] * grid[1], -1, *self.size
        )


class Segment(NamedTuple):
    """Where the rows of one sample are."""

    sample: int
    rows: slice


@dataclass(frozen=True)
class WindowRows:
    """What M rows of coefficients are about, in the order of their samples.

    The coefficients are kept apart.
    """

    owner: Tensor
    """The sample of each row, (M,), rising."""
    span: Pair
    """The first sample, and one after the last."""
    position: Tensor | None = None
    """The unit's position in ``grid``, (M,), for rows that start at single units of an image-shaped
    layer.
    """
    grid: Pair = (1, 1)
    run: int = 1
    """So many rows one after the other are at one position of one sample: all channels of a layer,
    in order.
    """

    @classmethod
    def of(
        cls, owner: Tensor, position: Tensor | None = None, grid: Pair = (1, 1), run: int = 1
    ) -> WindowRows:
        return cls(owner, (int(owner[0]), int(owner[-1]) + 1), position, grid, run)

    def times(self, a: Tensor, values: Tensor, window: Window | None) -> Tensor:
        """Multiply ``a`` (M, *shape) by the ``values`` (B, *shape) of each row's sample.

        That goes as far as its window shows.
        """
        if self._by_sample(window):
            return torch.cat([a[part] * values[sample] for sample, part in self.segments])
        return self._product(a.reshape(-1, self.run, *a.shape[1:]), values, window)

    def scale_layer(self, layer: Tensor, values: Tensor, window: Window | None) -> Tensor:
        """Multiply a whole ``layer`` (run, *shape), run after run, by its sample's ``values``."""
        return self._product(layer.unsqueeze(0), values, window)

    def dot(self, a: Tensor, values: Tensor, window: Window | None) -> Tensor:
        """The sum of ``times`` over each row, (M,)."""
        if self._by_sample(window):
            return torch.cat(
                [a[part].flatten(1) @ values[sample].flatten() for sample, part in self.segments]
            )
        return self.times(a, values, window).flatten(1).sum(1)

    def _by_sample(self, window: Window | None) -> bool:
        """Say whether to loop over samples, which is quicker than a copy of each for its rows.

        It is not where gradients go back through slices.
        """
        many = len(self.owner) >= _MANY * (self.span[1] - self.span[0])
        small_pieces = works_in_caches(self.owner.device) and not torch.is_grad_enabled()
        return window is None and many and small_pieces

    @cached_property
    def segments(self) -> list[Segment]:
        """Each sample with its rows."""
        samples = self.span[1] - self.span[0]
        ends = torch.bincount(self.owner - self.span[0], minlength=samples).cumsum(0).tolist()
        starts = [0, *ends]
        return [
            Segment(self.span[0] + i, slice(starts[i], end))
            for i, end in enumerate(ends)
            if end > starts[i]
        ]

    def _product(self, a: Tensor, values: Tensor, window: Window | None) -> Tensor:
        """Multiply ``a`` (runs or 1, run, ...) by the ``values`` (B, *shape) of each run's sample.

        Returns:
            (M, ...).
        """
        own = values[self.span[0] : self.span[1]]
        local = self.owner[:: self.run] - self.span[0]
        if window is not None and self.position is not None:
            own = window.patches(own, self.grid).flatten(0, 1)
            local = local * (self.grid[0] * self.grid[1]) + self.position[:: self.run]
        return (a * own.index_select(0, local).unsqueeze(1)).flatten(0, 1)

    def mask(self, like: Tensor, shape: Shape, window: Window) -> Tensor:
        """1 inside of a layer of ``shape``, 0 beyond its edges, (M, 1, *size)."""
        inside = window.patches(like.new_ones(1, 1, *shape[-2:]), self.grid)[0]
        position = self.position if self.position is not None else torch.zeros_like(self.owner)
        return inside.index_select(0, position)

    def spread(self, a: Tensor, shape: Shape, window: Window) -> Tensor:
        """Write coefficients of a window as those of the whole layer.

        Args:
            a: (M, C, *size).

        Returns:
            (M, *shape).
        """
        position = self.position if self.position is not None else torch.zeros_like(self.owner)
        places = torch.stack([position // self.grid[1], position % self.grid[1]])  # (2, M)
        index = []  # where in the window: (M, side), by axis
        for axis, side in enumerate(shape[-2:]):
            start = places[axis] * window.stride[axis] - window.shift[axis]
            index.append(torch.arange(side, device=a.device) - start.unsqueeze(1))
        inside = [
            (part >= 0) & (part < size) for part, size in zip(index, window.size, strict=True)
        ]
        rows, columns = (
            part.clamp(0, size - 1) for part, size in zip(index, window.size, strict=True)
        )
        flat = rows.unsqueeze(2) * window.size[1] + columns.unsqueeze(1)  # (M, H, W)
        flat = flat.flatten(1).unsqueeze(1)  # (M, 1, H W)
        found = a.flatten(2).gather(2, flat.expand(-1, a.shape[1], -1)).reshape(len(a), *shape)
        return found * (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)
