"""The operations that windows know, and which of them a module is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from robustbench_lite.model.layers import ConvexAggregation, Pointwise

Pair = tuple[int, int]


class Same(NamedTuple):
    """Its input."""


class Elementwise(NamedTuple):
    """Each value alone, or each pixel's values."""

    rectifier: bool = False


class Affine(NamedTuple):
    """Each channel times ``factor`` (C,) or (), and something added."""

    factor: Tensor | None
    """``None`` is 1."""


class Sum(NamedTuple):
    """A weighted sum of its inputs."""

    weights: tuple[float, ...]


class Convolution(NamedTuple):
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


class Mean(NamedTuple):
    """Over all positions."""

    keeps_places: bool


class Flat(NamedTuple):
    """(B, C, H, W) to (B, C H W)."""


class Linear(NamedTuple):
    """A matrix product with a bias, or without."""

    weight: Tensor


Operation = Same | Elementwise | Affine | Sum | Convolution | Pool | Mean | Flat | Linear


class Call(NamedTuple):
    """An operation, and how a whole layer does it: without writing to its inputs."""

    operation: Operation
    whole: Callable[..., Tensor]


def hooked(module: nn.Module) -> bool:
    """Tell whether somebody listens to ``module``, or gave this instance another forward."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    replaced = "forward" in module.__dict__
    return any(hooks) or replaced


def call_of_module(module: nn.Module, shapes: Sequence[Sequence[int]]) -> Call | None:
    """Read what ``module`` does, called with tensors of ``shapes`` alone.

    None where windows do not know it.
    """
    if hooked(module) or module.training:
        return None
    operation = _of_module(module, shapes[0])
    if operation is None or (len(shapes) > 1 and not isinstance(operation, Sum)):
        return None
    return Call(operation, _out_of_place(module))


def _of_module(module: nn.Module, shape: Sequence[int]) -> Operation | None:
    kind = type(module)
    if kind in _ELEMENTWISE or isinstance(module, Pointwise):
        return Elementwise(kind is nn.ReLU)
    if kind in (
        nn.Identity,
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ):
        return Same()
    if isinstance(module, ConvexAggregation):
        return Sum(tuple(module.coefficients.tolist()))
    if kind is nn.Conv2d and getattr(module, "padding_mode", "zeros") == "zeros":
        dilation = getattr(module, "dilation", 1)
        groups = getattr(module, "groups", 1)
        return convolution(module.weight, module.stride, module.padding, dilation, groups)  # type: ignore[arg-type]
    if kind is nn.BatchNorm2d or (kind is nn.BatchNorm1d and len(shape) == 2):
        return _batch_norm(module)  # type: ignore[arg-type]
    if kind is nn.Flatten and [module.start_dim, module.end_dim] == [1, -1]:
        return flat(shape)
    if kind is nn.Linear:
        return Linear(module.weight.detach())  # type: ignore[operator]
    return _of_pool(module, shape)


def _of_pool(module: nn.Module, shape: Sequence[int]) -> Operation | None:
    kind = type(module)
    if isinstance(module, nn.MaxPool2d) and kind is nn.MaxPool2d and not module.return_indices:
        return Pool(
            pair(module.kernel_size),
            pair(module.stride or module.kernel_size),
            pair(module.padding),
            pair(module.dilation),
            largest=True,
        )
    if isinstance(module, nn.AvgPool2d) and kind is nn.AvgPool2d:
        return average(
            module.kernel_size,
            module.stride,
            module.padding,
            module.ceil_mode,
            module.count_include_pad,
            module.divisor_override,
        )
    if kind is nn.AdaptiveAvgPool2d:
        return adaptive_average(shape, module.output_size)
    return None


def _out_of_place(module: nn.Module) -> nn.Module:
    """Give ``module``, or its twin that leaves its input as it is."""
    if not getattr(module, "inplace", False):
        return module
    twin = copy.copy(module)
    twin.inplace = False  # type: ignore[assignment]
    return twin


def convolution(
    weight: Tensor, stride: Any, padding: Any, dilation: Any = 1, groups: int = 1
) -> Convolution | None:
    """Read a convolution by its settings as torch takes them."""
    reach = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
    if padding == "same":
        if any(part % 2 for part in reach):
            return None  # there is more padding on one side
        padding = (reach[0] // 2, reach[1] // 2)
    padding = (0, 0) if padding == "valid" else pair(padding)
    return Convolution(weight.detach(), pair(stride), padding, pair(dilation), groups)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine | None:
    if module.running_mean is None or module.running_var is None:
        return None
    factor = (module.running_var + module.eps).rsqrt()
    return Affine((factor if module.weight is None else factor * module.weight).detach())


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
        return Mean(keeps_places=True)
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


_ELEMENTWISE: set[type[nn.Module]] = {
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Softsign,
}
