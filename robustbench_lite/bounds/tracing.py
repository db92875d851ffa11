"""From a network to its graph: torch.fx follows the network's own forward, and every call is matched to an operation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robustbench_lite.bounds.graph import Graph, Node
from robustbench_lite.bounds.operations import (
    Activation,
    Affine,
    Convolution,
    Input,
    Linear,
    Operation,
    Pair,
    Reshape,
    Scale,
    Shape,
    Sum,
    scaled,
)
from robustbench_lite.errors import ModelError, UnsupportedLayerError, as_model_error, told
from robustbench_lite.numerics import exactly
from robustbench_lite.search.layers import ConvexAggregation

SUPPORTED = (
    "Linear, Conv2d, AvgPool2d, AdaptiveAvgPool2d, BatchNorm and Dropout (eval mode), ReLU, LeakyReLU, Flatten, Identity, "
    "sums of branches, and arithmetic with constants (normalisation)"
)
_PROBES = 3
"""Images that the graph is compared with the network on."""
_SAME = 1e-4
"""Largest difference, relative to the largest logit, between graph and network."""


@exactly
def graph_of(model: nn.Module, shape: Shape, dtype: torch.dtype = torch.float64, *, live: bool = False) -> Graph:
    """The graph of ``model``, which takes images of ``shape`` (C, H, W) and is in eval mode; ``live`` lets gradients through.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
        ModelError: the graph does not compute what the network does (hooks, say).
    """
    root = nn.Sequential(model)  # so that a network of one layer is a layer, and not its inside
    try:
        traced = _Tracer().trace(root)
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        what = f"{type(model).__name__} cannot be certified: its forward cannot be followed: {told(error)}"
        raise UnsupportedLayerError(f"{what} It must not branch on values.") from error
    weights = [*model.parameters(), *model.buffers()]
    if any(tensor.is_complex() for tensor in weights):
        raise UnsupportedLayerError(f"{type(model).__name__} has complex weights: no bound is known for those.")
    like = next((tensor for tensor in weights if tensor.is_floating_point()), torch.zeros(()))
    probe = torch.rand(_PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    failed = f"{type(model).__name__} fails on images of shape {tuple(shape)}"
    with as_model_error(failed), torch.set_grad_enabled(live):
        graph = Graph(_Builder(root, probe, dtype).build(traced), dtype)
    with as_model_error(failed), torch.no_grad():
        expected, found = model(probe.clone()), graph.forward(probe)
    if expected.dim() != 2 or float((expected - found).abs().max()) > _SAME * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"{type(model).__name__} computes something else than its layers say (hooks, half precision or random layers?): "
            "it cannot be certified as it is."
        )
    return graph


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ConvexAggregation) or super().is_leaf_module(module, name)


@dataclass(frozen=True)
class _Value:
    """A tensor that depends on the image: its node, and what it is on the probes."""

    node: int
    probe: Tensor


class _Builder:
    """Walks over the traced calls, once, with the probes in hand: every shape is known where it is needed."""

    def __init__(self, root: nn.Module, probe: Tensor, dtype: torch.dtype) -> None:
        self.root, self.probe, self.dtype = root, probe, dtype
        self.nodes: list[Node] = []
        self.call: fx.Node

    def build(self, traced: fx.Graph) -> list[Node]:
        values: dict[fx.Node, Any] = {}
        for self.call in traced.nodes:
            if self.call.op == "output":
                result = values[self.call.args[0]]  # type: ignore[index]
                if not isinstance(result, _Value) or result.node != len(self.nodes) - 1 or result.probe.dim() != 2:
                    raise UnsupportedLayerError("The network must end with its logits, (B, K), which depend on the image.")
                break
            args = fx.node.map_arg(self.call.args, values.__getitem__)
            kwargs = fx.node.map_arg(self.call.kwargs, values.__getitem__)
            values[self.call] = self._value(args, kwargs)
        return self.nodes

    def _value(self, args: Any, kwargs: Any) -> Any:
        target = self.call.target
        if self.call.op == "placeholder":
            return self._add(Input(), [], self.probe)
        if self.call.op == "get_attr":
            return operator.attrgetter(str(target))(self.root)
        if self.call.op == "call_module":
            return self._module(self.root.get_submodule(str(target)), args)
        if not any(isinstance(part, _Value) for part in [*_flat(args), *kwargs.values()]):
            return target(*args, **kwargs) if callable(target) else getattr(args[0], str(target))(*args[1:], **kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return self._function(name, args, kwargs)

    def _module(self, module: nn.Module, args: Any) -> _Value:
        x: _Value = args[0]
        match module:
            case ConvexAggregation():
                return self._add(Sum(tuple(self._cast(module.coefficients))), args, module(*(part.probe for part in args)))
            case nn.Linear():
                return self._linear(x, module.weight, module.bias)
            case nn.Conv2d() if module.padding_mode == "zeros":
                return self._convolution(
                    x, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups
                )
            case nn.AvgPool2d():
                return self._pool(
                    x, module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad,
                    module.divisor_override,
                )  # fmt: skip
            case nn.AdaptiveAvgPool2d():
                return self._adaptive_pool(x, module.output_size)
            case nn.BatchNorm1d() | nn.BatchNorm2d() if module.running_mean is not None and module.running_var is not None:
                return self._batch_norm(x, module)
            case nn.ReLU():
                return self._activation(x, 0.0)
            case nn.LeakyReLU():
                return self._activation(x, module.negative_slope)
            case nn.Flatten() | nn.Unflatten():
                return self._reshape(x, module(x.probe))
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return x
        raise self._unsupported(f"{type(module).__name__}")

    def _function(self, name: str, args: Any, kwargs: Any) -> Any:
        name = name.removesuffix("_")
        if name in _ARITHMETIC and len(args) == 2 and not kwargs:
            return self._arithmetic(_ARITHMETIC[name], *args)
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, _Value):
            raise self._unsupported(f"{name}()")
        rest = args[1:]
        match name:
            case "relu":
                return self._activation(x, 0.0)
            case "leaky_relu":
                return self._activation(x, rest[0] if rest else kwargs.get("negative_slope", 0.01))
            case "flatten":
                return self._reshape(x, torch.flatten(x.probe, *rest, **kwargs))
            case "view" | "reshape":
                return self._reshape(x, x.probe.reshape(*rest, **kwargs))
            case "size":
                return x.probe.size(*rest, **kwargs)
            case "getattr" if rest == ("shape",):
                return x.probe.shape
            case "contiguous" | "clone":
                return x
            case "dropout" if not kwargs.get("training", True):
                return x
            case "linear" | "conv2d" | "avg_pool2d" | "adaptive_avg_pool2d":
                layer = {"linear": "_linear", "conv2d": "_convolution", "avg_pool2d": "_pool"}.get(name, "_adaptive_pool")
                return getattr(self, layer)(x, *rest, **kwargs)
        raise self._unsupported(f"{name}()")

    def _add(self, operation: Operation, inputs: Any, probe: Tensor) -> _Value:
        if len(probe) != len(self.probe):
            raise self._unsupported("a reshape that mixes images")
        name = str(self.call.target).removeprefix("0.")
        self.nodes.append(Node(operation, tuple(part.node for part in inputs), tuple(probe.shape[1:]), name))
        return _Value(len(self.nodes) - 1, probe)

    def _linear(self, x: _Value, weight: Tensor, bias: Tensor | None = None) -> _Value:
        if x.probe.dim() != 2:
            raise self._unsupported(f"Linear on {x.probe.dim() - 1}-dimensional features")
        return self._add(Linear(self._cast(weight), self._cast(bias)), [x], F.linear(x.probe, weight, bias))

    def _convolution(
        self, x: _Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> _Value:  # fmt: skip
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(_pair(dilation), weight.shape[-2:], strict=True)]
            if any(part % 2 for part in total):
                raise self._unsupported("Conv2d with more padding on one side")
            padding = tuple(part // 2 for part in total)
        padding = (0, 0) if padding == "valid" else _pair(padding)
        conv = Convolution(self._cast(weight), self._cast(bias), _pair(stride), padding, _pair(dilation), groups)
        return self._add(conv, [x], F.conv2d(x.probe, weight, bias, conv.stride, padding, conv.dilation, groups))

    def _pool(
        self, x: _Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> _Value:  # fmt: skip
        kernel, channels = _pair(kernel_size), x.probe.shape[1]
        if ceil_mode or (not count_include_pad and _pair(padding) != (0, 0)):
            raise self._unsupported("AvgPool2d with ceil_mode or with count_include_pad=False")
        share = 1.0 / (divisor_override or kernel[0] * kernel[1])
        weight = x.probe.new_full((channels, 1, *kernel), share)
        return self._convolution(x, weight, None, kernel if stride is None else stride, padding, 1, channels)

    def _adaptive_pool(self, x: _Value, output_size: Any) -> _Value:
        sides = x.probe.shape[-2:]
        wanted = [side if size is None else size for side, size in zip(sides, _pair(output_size), strict=True)]
        if any(side % size for side, size in zip(sides, wanted, strict=True)):
            raise self._unsupported("AdaptiveAvgPool2d to a size that does not divide its input's")
        return self._pool(x, tuple(side // size for side, size in zip(sides, wanted, strict=True)))

    def _batch_norm(self, x: _Value, module: nn.BatchNorm1d | nn.BatchNorm2d) -> _Value:
        mean, variance = self._cast(module.running_mean), self._cast(module.running_var)
        weight, bias = self._cast(module.weight), self._cast(module.bias)
        scale = (variance + module.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (-1, *([1] * (x.probe.dim() - 2)))
        return self._scale(x, scale.reshape(shape), shift.reshape(shape))

    def _scale(self, x: _Value, scale: Tensor, shift: Tensor) -> _Value:
        operation = Scale(scale, shift)
        probe = operation.forward(x.probe.to(self.dtype)).to(x.probe.dtype)
        if probe.shape != x.probe.shape:
            raise self._unsupported("arithmetic with a constant that changes the shape")
        before = self.nodes[x.node]
        source = self.call.all_input_nodes[0]
        alone = len(source.users) == 1 and x.node == len(self.nodes) - 1
        folded = scaled(before.operation, operation) if alone and isinstance(before.operation, Affine) else None
        if folded is None:
            return self._add(operation, [x], probe)
        self.nodes[-1] = Node(folded, before.inputs, before.shape, before.name)
        return _Value(x.node, probe)

    def _activation(self, x: _Value, slope: float) -> _Value:
        if not 0 <= slope <= 1:
            raise self._unsupported(f"LeakyReLU with slope {slope} outside of [0, 1]")
        return self._add(Activation(slope), [x], Activation(slope)(x.probe))

    def _reshape(self, x: _Value, probe: Tensor) -> _Value:
        return x if probe.shape == x.probe.shape else self._add(Reshape(), [x], probe)

    def _arithmetic(self, sign: Callable[[Any, Any], Any], left: Any, right: Any) -> _Value:
        linear = sign in (operator.add, operator.sub)
        if isinstance(left, _Value) and isinstance(right, _Value):
            if not linear or left.probe.shape != right.probe.shape:
                raise self._unsupported(f"{sign.__name__} of two branches")
            return self._add(Sum((1.0, sign(0.0, 1.0))), [left, right], sign(left.probe, right.probe))
        x, constant = (left, self._constant(right)) if isinstance(left, _Value) else (right, self._constant(left))
        one = torch.ones((), dtype=self.dtype, device=constant.device)
        if linear:
            swapped = x is right and sign is operator.sub
            return self._scale(x, -one if swapped else one, constant if swapped else sign(0.0, constant))
        if x is right and sign is operator.truediv:
            raise self._unsupported("division by the image")
        return self._scale(x, sign(one, constant), 0 * one)

    def _constant(self, value: Any) -> Tensor:
        tensor = torch.as_tensor(value, dtype=self.dtype, device=self.probe.device)
        if tensor.dim() and tensor.dim() == self.probe.dim() and len(tensor) == 1:
            tensor = tensor[0]
        return tensor

    def _cast(self, tensor: Any) -> Any:
        return None if tensor is None else (tensor if torch.is_grad_enabled() else tensor.detach()).to(self.dtype)

    def _unsupported(self, what: str) -> UnsupportedLayerError:
        name = str(self.call.target) if self.call.op == "call_module" else str(self.call.name)
        where = f"layer {name.removeprefix('0.')!r}" if name != "0" else "the network"
        return UnsupportedLayerError(f"No bound is known for {where}: {what}. Supported: {SUPPORTED}.")


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "iadd": operator.add, "sub": operator.sub, "isub": operator.sub,
    "mul": operator.mul, "imul": operator.mul, "truediv": operator.truediv, "itruediv": operator.truediv,
    "div": operator.truediv, "true_divide": operator.truediv,
}  # fmt: skip


def _pair(value: Any) -> Pair:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second


def _flat(args: Any) -> list[Any]:
    return [part for arg in args for part in (arg if isinstance(arg, tuple | list) else [arg])]
