"""Straight lines below and above an activation on an interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.bounds.graph.operations import Activation
from robustbench_lite.bounds.region import Interval


@dataclass(frozen=True)
class Lines:
    """``below z <= f(z) <= above z + intercept`` on the interval; (B, *shape) each."""

    below: Tensor
    above: Tensor
    intercept: Tensor

    @property
    def parallel(self) -> bool:
        """One slope for both: a row and its negative go back in one pass."""
        return self.below is self.above


def chord(activation: Activation, z: Interval) -> Lines:
    """Give both lines the slope of the chord.

    That is the dual network of Wong and Kolter 2018, arXiv:1711.00851 (Fast-Lin): D = 1 where l >=
    0, the leaky slope where u <= 0, (u - slope l) / (u - l) between, with the intercept -l u (1 -
    slope) / (u - l) there.
    """
    slope = activation.slope
    lower = z.lower.clamp(max=0)
    upper = z.upper.clamp_min(0)
    open_units = (z.lower < 0) & (z.upper > 0)
    # Elsewhere the width may be 0, and a gradient of what is not chosen would still be no number.
    width = torch.where(open_units, upper - lower, 1.0)
    share = upper / width
    steep = torch.where(
        open_units,
        slope + (1 - slope) * share,
        torch.where(z.lower >= 0, 1.0, slope).to(width.dtype),
    )
    intercept = torch.where(open_units, -lower * share * (1 - slope), 0.0)
    return Lines(steep, steep, intercept)


def adaptive(activation: Activation, z: Interval) -> Lines:
    """Take the chord above and, below, the slope of the two that leaves the smaller area.

    CROWN, arXiv:1811.00866.
    """
    lines = chord(activation, z)
    steep = torch.where(z.upper > -z.lower, 1.0, activation.slope).to(lines.above.dtype)
    below = torch.where((z.lower < 0) & (z.upper > 0), steep, lines.above)
    return Lines(below, lines.above, lines.intercept)


def image(activation: Activation, z: Interval) -> Interval:
    """The interval of the activation's values."""
    return Interval(activation(z.lower), activation(z.upper))


def chord_image(activation: Activation, z: Interval) -> Interval:
    """Bound the output by the two chord lines.

    That is wider than ``image``, and never tighter than what goes back through the lines. With it,
    a unit that the intervals close is closed in the published method too (its bound is concave and
    positively homogeneous in the row), so that leaving such units out changes no number.
    """
    lines = chord(activation, z)
    return Interval(lines.below * z.lower, activation(z.upper))
