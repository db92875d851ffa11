"""The operations that windows know, made of what torch calls their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

Pair = tuple[int, int]


class Same(NamedTuple):
    """Its input."""


class Elementwise(NamedTuple):
    """Each value alone, or each pixel's values."""

    rectifier: bool = False


class AffineOperation(NamedTuple):
    """Each channel times ``factor`` (C,) or (), and something added."""

    factor: Tensor | None
    """``None`` is 1."""


class SumOperation(NamedTuple):
    """A weighted sum of its inputs."""

    weights: tuple[float, ...]


class ConvolutionOperation(NamedTuple):
    """A convolution with a bias, or without."""

    weight: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


class Pool(NamedTuple):
    """A mean over windows, or the largest value."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    largest: bool = False
    """The largest value instead of the mean."""
    divisor: int | None = None


class MeanOperation(NamedTuple):
    """Over all positions."""

    keeps_places: bool


class Flat(NamedTuple):
    """(B, C, H, W) to (B, C H W)."""


class LinearOperation(NamedTuple):
    """A matrix product with a bias, or without."""

    weight: Tensor


Operation = (
    Same
    | Elementwise
    | AffineOperation
    | SumOperation
    | ConvolutionOperation
    | Pool
    | MeanOperation
    | Flat
    | LinearOperation
)


class Call(NamedTuple):
    """An operation, and how a whole layer does it: without writing to its inputs."""

    operation: Operation
    whole: Callable[..., Tensor]


def convolution(
    weight: Tensor, stride: Any, padding: Any, dilation: Any = 1, groups: int = 1
) -> ConvolutionOperation | None:
    """Read a convolution by its settings as torch takes them."""
    reach = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
    if padding == "same":
        if any(part % 2 for part in reach):
            return None  # there is more padding on one side
        padding = (reach[0] // 2, reach[1] // 2)
    padding = (0, 0) if padding == "valid" else pair(padding)
    return ConvolutionOperation(weight.detach(), pair(stride), padding, pair(dilation), groups)


def average(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Pool | None:
    """Read a pool of means by its settings as torch takes them."""
    if ceil_mode or (not count_include_pad and pair(padding) != (0, 0)):
        return None  # what a sum is divided by depends on the place
    return Pool(
        pair(kernel_size), pair(stride or kernel_size), pair(padding), divisor=divisor_override
    )


def adaptive_average(shape: Sequence[int], output_size: Any) -> Operation | None:
    """Read an adaptive pool of means over a map of ``shape`` (B, C, H, W)."""
    sides = shape[2:]
    wanted = [
        side if size is None else size for side, size in zip(sides, pair(output_size), strict=True)
    ]
    if wanted == list(sides):
        return Same()
    if wanted == [1, 1]:
        return MeanOperation(keeps_places=True)
    if any(side % size for side, size in zip(sides, wanted, strict=True)):
        return None
    kernel = pair([side // size for side, size in zip(sides, wanted, strict=True)])
    return Pool(kernel, kernel, (0, 0))


def flat(shape: Sequence[int]) -> Operation:
    """Read a flattening of a tensor of ``shape``."""
    return Same() if len(shape) == 2 else Flat()


def pair(value: Any) -> Pair:
    """Make two numbers of one, or of two."""
    parts = list(value) if isinstance(value, tuple | list) else [value]
    return int(parts[0]), int(parts[-1])
