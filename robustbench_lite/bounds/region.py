"""Where the adversary may go: a ball around each image, cut by the bounds of an image.

This is the only file here that knows norms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.bounds.windows import Window, WindowRows
from robustbench_lite.errors import UsageError
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import Norm, per_row


class Interval(NamedTuple):
    """Lower and upper bounds, (B, *shape) each."""

    lower: Tensor
    upper: Tensor


class Extremes(NamedTuple):
    """Lower bounds of rows a . x and of -a . x, (M,) each."""

    lower: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Region(ABC):
    """The images that B adversaries may reach."""

    box: Interval
    """The smallest box around it, (B, C, H, W)."""

    @abstractmethod
    def lowest(self, a: Tensor, rows: WindowRows, window: Window | None) -> Extremes:
        """Lower bounds of a . x over the region, for rows ``a`` (M, C, H, W) or windows of them."""

    @abstractmethod
    def take(self, index: Tensor) -> Region:
        """The region of some of the images."""

    @property
    @abstractmethod
    def is_box(self) -> bool:
        """Every pixel moves freely within ``box``."""


@dataclass(frozen=True)
class BoxRegion(Region):
    """An Linf ball, whole or cut by the image bounds.

    Either way it is a box, over which a linear function's minimum is exact.
    """

    def lowest(self, a: Tensor, rows: WindowRows, window: Window | None) -> Extremes:
        middle = rows.dot(a, self.middle, window)
        reach = rows.dot(a.abs(), self.half, window)
        return Extremes(middle - reach, -middle - reach)

    @cached_property
    def middle(self) -> Tensor:
        return (self.box.lower + self.box.upper) / 2  # (B, C, H, W)

    @cached_property
    def half(self) -> Tensor:
        return (self.box.upper - self.box.lower) / 2  # (B, C, H, W)

    def take(self, index: Tensor) -> Region:
        return BoxRegion(Interval(self.box.lower[index], self.box.upper[index]))

    @property
    def is_box(self) -> bool:
        return True


@dataclass(frozen=True)
class L2Region(Region):
    """An L2 ball.

    Cut by the image bounds, the better of two bounds counts: that of the ball, and that of the box
    around it.
    """

    centre: Tensor
    """(B, C, H, W)."""
    eps: Tensor
    """(B,)."""
    cut: bool

    def lowest(self, a: Tensor, rows: WindowRows, window: Window | None) -> Extremes:
        if window is not None:
            shape = tuple(self.centre.shape[1:])
            a = a * rows.mask(a, shape, window) if window.leaves(shape, rows.grid) else a
        middle = rows.dot(a, self.centre, window)
        reach = torch.linalg.vector_norm(a.flatten(1), dim=1) * self.eps.index_select(0, rows.owner)
        ball = Extremes(middle - reach, -middle - reach)
        if not self.cut:
            return ball
        other = self.around.lowest(a, rows, window)
        return Extremes(
            torch.maximum(ball.lower, other.lower), torch.maximum(ball.negative, other.negative)
        )

    @cached_property
    def around(self) -> BoxRegion:
        return BoxRegion(self.box)

    def take(self, index: Tensor) -> Region:
        box = Interval(self.box.lower[index], self.box.upper[index])
        return L2Region(box, self.centre[index], self.eps[index], self.cut)

    @property
    def is_box(self) -> bool:
        return False


def region_of(x: Tensor, norm: Norm, eps: Tensor, *, box: bool = True) -> Region:
    """Make the ball of radius ``eps`` (B,) around ``x`` (B, C, H, W), in the dtype of ``x``.

    ``box`` cuts it by [0, 1].
    """
    if norm.name not in ("linf", "l2"):
        raise UsageError(f"No certificate is known here for {norm.name}: use linf or l2.")
    radius = per_row(eps, x)
    lower = x - radius
    upper = x + radius
    around = (
        Interval(lower.clamp_min(LOW), upper.clamp_max(HIGH)) if box else Interval(lower, upper)
    )
    return BoxRegion(around) if norm.name == "linf" else L2Region(around, x, eps.to(x.dtype), box)
