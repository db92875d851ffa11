"""Which of the operations that windows know a function or a method of torch is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.model.fast.neighbours.operations import (
    Call,
    Elementwise,
    Flat,
    LinearOperation,
    MeanOperation,
    Pool,
    Same,
    adaptive_average,
    average,
    convolution,
    flat,
    pair,
)


def call_of_function(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Sequence[int]
) -> Call | None:
    """Read what a function or method does to its first argument.

    Args:
        target: the function, or the method's name.
        args: its other arguments, constants.
        kwargs: likewise.
        shape: that of its first argument, a tensor.

    Returns:
        None where windows do not know it.
    """
    name = name_of(target)
    if name in _ACTIVATIONS:
        settings = {key: value for key, value in kwargs.items() if key not in ("inplace", "input")}
        # The last may be inplace=True.
        numbers = [value for value in args if not isinstance(value, bool)]
        if any(isinstance(value, Tensor) for value in (*numbers, *settings.values())):
            return None
        function = getattr(torch, name) if hasattr(torch, name) else getattr(F, name)
        return Call(Elementwise(name == "relu"), lambda x: function(x, *numbers, **settings))
    maker = _FUNCTIONS.get(name)
    if maker is None:
        return None
    return maker(shape, *args, **{key: kwargs[key] for key in kwargs if key != "input"})


def name_of(target: Any) -> str:
    """Name a function of torch or Python, or a method; in-place ones have the same name.

    The name of any other is empty.
    """
    if isinstance(target, str):
        return target if target.startswith("__") else target.removesuffix("_")
    name = getattr(target, "__name__", "")
    known = any(getattr(home, name, None) is target for home in (torch, F, torch._C._nn, operator))
    if not known and target not in (F.max_pool2d, getattr):
        return ""
    return {"fn": "max_pool2d"}.get(name, name.removesuffix("_"))


def writes(target: Any, kwargs: Mapping[str, Any], args: Sequence[Any]) -> bool:
    """Tell whether the function or method ``target`` writes over its first argument."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    own = name.endswith("_") and not name.endswith("__")
    own |= name in ("iadd", "isub", "imul", "itruediv")
    flagged = name_of(target) in _ACTIVATIONS and any(value is True for value in args)
    return own or flagged or bool(kwargs.get("inplace"))


def _of_reshape(shape: Sequence[int], *sizes: Any) -> Call | None:
    wanted = torch.empty(tuple(shape), device="meta").reshape(*sizes).shape
    if tuple(wanted) == tuple(shape):
        return Call(Same(), lambda x: x)
    every = (shape[0], int(torch.Size(shape[1:]).numel()))
    return Call(Flat(), lambda x: x.flatten(1)) if tuple(wanted) == every else None


def _of_flatten(shape: Sequence[int], start_dim: int = 0, end_dim: int = -1) -> Call | None:
    whole = start_dim == 1 and end_dim in (-1, len(shape) - 1)
    return Call(flat(shape), lambda x: x.flatten(1)) if whole else None


def _of_mean(shape: Sequence[int], dim: Any = (), keepdim: bool = False) -> Call | None:
    if len(shape) != 4 or not isinstance(dim, tuple | list):
        return None
    if sorted(part % 4 for part in dim) != [2, 3]:
        return None
    return Call(MeanOperation(keepdim), lambda x: x.mean((2, 3), keepdim=keepdim))


def _of_largest(
    shape: Sequence[int],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Call | None:
    pool = Pool(
        pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation), largest=True
    )
    whole = partial(
        F.max_pool2d,
        kernel_size=pool.kernel,
        stride=pool.stride,
        padding=pool.padding,
        dilation=pool.dilation,
        ceil_mode=ceil_mode,
    )
    return None if return_indices else Call(pool, whole)


def _of_average(shape: Sequence[int], *args: Any, **kwargs: Any) -> Call | None:
    pool = average(*args, **kwargs)
    return None if pool is None else Call(pool, lambda x: F.avg_pool2d(x, *args, **kwargs))


def _of_adaptive_average(shape: Sequence[int], output_size: Any) -> Call | None:
    operation = adaptive_average(shape, output_size)
    if operation is None:
        return None
    return Call(operation, lambda x: F.adaptive_avg_pool2d(x, output_size))


def _of_dropout(
    shape: Sequence[int], p: float = 0.5, training: bool = True, inplace: bool = False
) -> Call | None:
    return None if training else Call(Same(), lambda x: x)


def _of_linear(shape: Sequence[int], weight: Tensor, bias: Tensor | None = None) -> Call:
    return Call(LinearOperation(weight.detach()), lambda x: F.linear(x, weight, bias))


def _of_convolution(
    shape: Sequence[int], weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Call | None:
    settings = dict(zip(("stride", "padding", "dilation", "groups"), args, strict=False), **kwargs)
    operation = convolution(weight, **{"stride": 1, "padding": 0, **settings})
    if operation is None:
        return None
    return Call(operation, lambda x: F.conv2d(x, weight, bias, **settings))


_ACTIVATIONS = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "sigmoid",
    "tanh",
    "softplus",
    "logsigmoid",
    "softsign",
    "clamp",
    "clamp_min",
    "clamp_max",
    "abs",
    "square",
    "neg",
}
_FUNCTIONS: dict[str, Callable[..., Call | None]] = {
    "view": _of_reshape,
    "reshape": _of_reshape,
    "flatten": _of_flatten,
    "mean": _of_mean,
    "max_pool2d": _of_largest,
    "avg_pool2d": _of_average,
    "adaptive_avg_pool2d": _of_adaptive_average,
    "dropout": _of_dropout,
    "linear": _of_linear,
    "conv2d": _of_convolution,
    "contiguous": lambda shape: Call(Same(), lambda x: x),
}
