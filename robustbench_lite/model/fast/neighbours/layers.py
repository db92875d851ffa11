"""Which of the operations that windows know a module is."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from robustbench_lite.model.fast.neighbours.operations import (
    AffineOperation,
    Call,
    Elementwise,
    LinearOperation,
    Operation,
    Pool,
    Same,
    SumOperation,
    adaptive_average,
    average,
    convolution,
    flat,
    pair,
)
from robustbench_lite.model.layers import ConvexAggregation, Pointwise


def is_hooked(module: nn.Module) -> bool:
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
    if is_hooked(module) or module.training:
        return None
    operation = _of_module(module, shapes[0])
    if operation is None or (len(shapes) > 1 and not isinstance(operation, SumOperation)):
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
        return SumOperation(tuple(module.coefficients.tolist()))
    if kind is nn.Conv2d and getattr(module, "padding_mode", "zeros") == "zeros":
        dilation = getattr(module, "dilation", 1)
        groups = getattr(module, "groups", 1)
        return convolution(module.weight, module.stride, module.padding, dilation, groups)  # type: ignore[arg-type]
    if kind is nn.BatchNorm2d or (kind is nn.BatchNorm1d and len(shape) == 2):
        return _batch_norm(module)  # type: ignore[arg-type]
    if kind is nn.Flatten and [module.start_dim, module.end_dim] == [1, -1]:
        return flat(shape)
    if kind is nn.Linear:
        return LinearOperation(module.weight.detach())  # type: ignore[operator]
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


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> AffineOperation | None:
    if module.running_mean is None or module.running_var is None:
        return None
    factor = (module.running_var + module.eps).rsqrt()
    return AffineOperation((factor if module.weight is None else factor * module.weight).detach())


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
