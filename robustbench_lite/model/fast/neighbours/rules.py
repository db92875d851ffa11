"""Which rule an operation gets, where windows lie as they do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from robustbench_lite.model.fast.neighbours.operations import (
    AffineOperation,
    Call,
    ConvolutionOperation,
    Elementwise,
    LinearOperation,
    MeanOperation,
    Operation,
    Pool,
    SumOperation,
)
from robustbench_lite.model.fast.windows.linear import VectorLinear, WindowedLinear
from robustbench_lite.model.fast.windows.pixels import Axes, Axis, Spread
from robustbench_lite.model.fast.windows.rules import (
    ActivationRule,
    MeanRule,
    Rectifier,
    Rule,
    Scaled,
    Total,
)
from robustbench_lite.model.fast.windows.slides import (
    AveragePool,
    MaxPool,
    SlidConvolution,
    Slide,
    WindowedConvolution,
)

LARGEST_TABLE = 16_000_000
"""Entries of a layer's matrices, 64 MB.

Where windows would need more, they have grown too large to gain anything.
"""
SLIDING_COST = 1.5
"""How long a multiplication of a kernel that slides over windows takes.

The unit is one of a matrix product, or over a whole map.
"""

Shape = Sequence[int]
Slides = tuple[Slide, Slide]


class Unfit(Exception):
    """Why a layer's windows are not carried on."""


def rule_of(
    call: Call, branches: Sequence[Axes | None], flat: bool, first: Tensor, after: Shape
) -> Rule:
    """Choose the rule for a call.

    Args:
        call: what is done.
        branches: where windows lie in each input.
        flat: those maps are vectors for the network.
        first: the first input at some images, (B, C, H, W) or (B, F).
        after: the shape of the output there.

    Raises:
        Unfit: windows gain nothing here.
    """
    operation = call.operation
    axes = branches[0]
    match operation:
        case Elementwise():
            if operation.rectifier:
                return Rectifier(axes)
            return ActivationRule.of(axes, call.whole, first[:1])
        case SumOperation():
            return Total.of(branches, operation.weights)
        case LinearOperation() if axes is None:
            return VectorLinear(None, operation.weight)
        case LinearOperation() if flat and axes is not None:
            if WindowedLinear.entries(operation.weight, axes) > LARGEST_TABLE:
                raise Unfit("takes windows that are too large for its table")
            return WindowedLinear.of(operation.weight, axes)
        case AffineOperation() if not flat:
            return Scaled(axes, operation.factor)
        case ConvolutionOperation() | Pool() | MeanOperation() if axes is not None and not flat:
            return _of_map(operation, axes, first.shape, after)
    raise Unfit("has no rule for windows of this shape")


def needs_clear(operation: Operation) -> bool:
    """Tell whether changes beyond the edges would come in again."""
    averages = isinstance(operation, Pool) and not operation.largest
    return averages or isinstance(operation, ConvolutionOperation | MeanOperation)


def whole_cost(operation: Operation, after: Shape) -> int:
    """Count multiplications for an image whose output has the shape ``after``, batch first."""
    if isinstance(operation, ConvolutionOperation | LinearOperation):
        return int(operation.weight.numel()) * math.prod(after[2:])
    return 0


def _of_map(
    operation: ConvolutionOperation | Pool | MeanOperation, axes: Axes, shape: Shape, after: Shape
) -> Rule:
    if isinstance(operation, MeanOperation):
        single = Axes(*(Axis((0,) * len(axis.starts), 1, 1) for axis in axes))
        return MeanRule(single if operation.keeps_places else None, math.prod(shape[2:]))
    kernel = operation.kernel if isinstance(operation, Pool) else tuple(operation.weight.shape[2:])
    parts = zip(
        axes,
        kernel,
        operation.stride,
        operation.padding,
        operation.dilation,
        after[2:],
        strict=True,
    )
    high, wide = (Slide.of(*part) for part in parts)
    spread = Spread(axes, Axes(high.field, wide.field))
    lies = Axes(high.after, wide.after)
    if isinstance(operation, ConvolutionOperation):
        return _convolution(operation, (high, wide), spread, lies, after)
    sliding = (lies, spread, shape[1], operation.stride, operation.kernel)
    if operation.largest:
        return MaxPool(*sliding, operation.dilation)
    return AveragePool(*sliding, operation.divisor)


def _convolution(
    operation: ConvolutionOperation, slides: Slides, spread: Spread, lies: Axes, after: Shape
) -> Rule:
    weight = operation.weight
    groups = operation.groups
    channels = weight.shape[1] * groups
    product = spread.before.area * channels * lies.area * len(weight)
    sliding = SlidConvolution(
        lies, spread, channels, operation.stride, weight, operation.dilation, groups
    )
    fits = product * math.prod(operation.stride) <= LARGEST_TABLE
    by_matrices = fits and product <= SLIDING_COST * sliding.cost
    if (product if by_matrices else SLIDING_COST * sliding.cost) > whole_cost(operation, after):
        raise Unfit("takes windows that are too large to gain anything")
    if not by_matrices:
        return sliding
    return WindowedConvolution.of(_ungroup(weight, groups), slides, operation.dilation)


def _ungroup(weight: Tensor, groups: int) -> Tensor:
    """Make ``weight`` (O, C / groups, kh, kw) that of one group, (O, C, kh, kw)."""
    if groups == 1:
        return weight
    outputs = weight.shape[0] // groups
    inputs = weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole
