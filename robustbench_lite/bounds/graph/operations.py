"""What a node of the graph computes: affine maps, sums and activations.

Shapes are those of one sample, without the row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.machine.kernels import works_in_caches
from robustbench_lite.model.fast.convolution import FEW_CHANNELS, InputGradient

Pair = tuple[int, int]
Shape = tuple[int, ...]

SMALL_WINDOW = 512
"""Up to so many values, one matrix product for all rows beats a small convolution each."""


class Operation:
    """Base of all operations."""


@dataclass(frozen=True)
class Input(Operation):
    """The image."""


@dataclass(frozen=True)
class Activation(Operation):
    """max(z, slope z): ReLU with slope 0, leaky ReLU with a slope in (0, 1]."""

    slope: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        return z.clamp_min(0) if self.slope == 0 else torch.maximum(z, self.slope * z)


@dataclass(frozen=True)
class Sum(Operation):
    """A weighted sum of inputs of one shape."""

    weights: tuple[float | Tensor, ...]

    @property
    def sizes(self) -> list[float | Tensor]:
        """The absolute weights."""
        return [
            weight.abs() if isinstance(weight, Tensor) else abs(weight) for weight in self.weights
        ]


@dataclass(frozen=True)
class Reshape(Operation):
    """The same values in another shape."""


class Affine(Operation, ABC):
    """x -> W x + b."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """W x + b, (B, *in) -> (B, *out)."""

    @abstractmethod
    def spread(self, radius: Tensor) -> Tensor:
        """Say how far the output moves when every input moves by up to ``radius``: |W| radius.

        Returns:
            (B, *out), of (B, *in).
        """

    @abstractmethod
    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        """W^T a, (M, *out) -> (M, *in); ``shape`` is that of the input."""

    @abstractmethod
    def offset(self, a: Tensor) -> Tensor | None:
        """a . b for each row, (M, *out) -> (M,); None where there is no b."""


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """scale * x + shift, both broadcast over the shape of a sample: normalisation, batch norm."""

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift

    def spread(self, radius: Tensor) -> Tensor:
        return radius * self.scale.abs()

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        return a * self.scale

    def offset(self, a: Tensor) -> Tensor:
        return (a * self.shift).flatten(1).sum(1)

    @property
    def uniform(self) -> bool:
        """It is the same at all positions of a channel."""
        return all(part.dim() < 2 or part.shape[-2:] == (1, 1) for part in (self.scale, self.shift))


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """``weight`` (out, in), ``bias`` (out,)."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def spread(self, radius: Tensor) -> Tensor:
        return F.linear(radius, self.weight.abs())

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        return a @ self.weight

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else a @ self.bias


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A convolution with zero padding; average pooling is one with a group a channel.

    ``weight`` is (out, in / groups, kh, kw), ``bias`` (out,).
    """

    weight: Tensor
    bias: Tensor | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def spread(self, radius: Tensor) -> Tensor:
        return F.conv2d(
            radius, self.weight.abs(), None, self.stride, self.padding, self.dilation, self.groups
        )

    @property
    def simple(self) -> bool:
        """Every unit sees all channels of a window without gaps."""
        return self.groups == 1 and self.dilation == (1, 1)

    def transpose(self, a: Tensor, shape: Shape) -> Tensor:
        if self._fast is not None:
            return self._fast(a, torch.Size((len(a), *shape)))
        # Channels last is twice as fast. Not where the kernel skips inputs: oneDNN (torch 2.x, CPU)
        # corrupted memory there.
        a = a.contiguous(
            memory_format=torch.contiguous_format if self._skips else torch.channels_last
        )
        # What a stride leaves over at the far edge: without it, the last inputs would be cut off
        # with the padding.
        left = tuple(
            size - ((out - 1) * stride - 2 * padding + reach)
            for size, out, stride, padding, reach in zip(
                shape[-2:], a.shape[-2:], self.stride, self.padding, self.reach, strict=True
            )
        )
        return F.conv_transpose2d(
            a, self.weight, None, self.stride, self.padding, left, self.groups, self.dilation
        )

    def transpose_window(self, a: Tensor) -> Tensor:
        """Compute W^T a, where ``a`` is a window of the output, over all that it sees."""
        values = a[0].numel()
        if values > SMALL_WINDOW or len(a) < values:
            return F.conv_transpose2d(
                a, self.weight, None, self.stride, 0, 0, self.groups, self.dilation
            )
        size = tuple(a.shape[1:])
        if size not in self._matrices:
            every = torch.eye(values, dtype=a.dtype, device=a.device).reshape(-1, *size)
            self._matrices[size] = F.conv_transpose2d(
                every, self.weight, None, self.stride, 0, 0, self.groups, self.dilation
            )
        matrix = self._matrices[size]
        return (a.flatten(1) @ matrix.flatten(1)).reshape(len(a), *matrix.shape[1:])

    @property
    def _skips(self) -> bool:
        """The stride is longer than what an output sees."""
        return any(seen < stride for seen, stride in zip(self.reach, self.stride, strict=True))

    @cached_property
    def _fast(self) -> InputGradient | None:
        """Make the transpose a forward convolution, where a CPU does that faster.

        It does with few channels, or in float64.
        """
        inputs = self.weight.shape[1]
        if not (works_in_caches(self.weight.device) and self.simple) or self._skips:
            return None
        if self.weight.dtype == torch.float32 and inputs > FEW_CHANNELS:
            return None
        # A product's pieces, added up in place, make a slow gradient.
        few = False if self.weight.requires_grad else None
        return InputGradient(self.weight, self.stride, self.padding, few)

    @cached_property
    def _matrices(self) -> dict[Shape, Tensor]:
        """Transposes of small windows as plain matrices, (values of the window, C, h, w)."""
        return {}

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else a.flatten(2).sum(2) @ self.bias

    @property
    def reach(self) -> Pair:
        """Height and width of the input that one output sees."""
        kernel = self.weight.shape[-2:]
        return (kernel[0] - 1) * self.dilation[0] + 1, (kernel[1] - 1) * self.dilation[1] + 1


def fold(operation: Affine, scale: Scale) -> Affine | None:
    """Fold ``scale`` into the ``operation`` before it; None where they are not one."""
    if isinstance(operation, Scale):
        return Scale(operation.scale * scale.scale, operation.shift * scale.scale + scale.shift)
    if not isinstance(operation, Linear | Convolution) or not scale.uniform:
        return None
    outputs = len(operation.weight)
    factor, shift = (part.flatten().expand(outputs) for part in (scale.scale, scale.shift))
    weight = operation.weight * factor.reshape(-1, *([1] * (operation.weight.dim() - 1)))
    bias = shift if operation.bias is None else operation.bias * factor + shift
    if isinstance(operation, Linear):
        return Linear(weight, bias)
    return Convolution(
        weight, bias, operation.stride, operation.padding, operation.dilation, operation.groups
    )
