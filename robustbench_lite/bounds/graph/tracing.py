"""From a network to its graph.

torch.fx follows the network's own forward, and every call is matched to an operation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustbench_lite.bounds.graph.building import Builder, Value
from robustbench_lite.bounds.graph.graph import Graph, Node
from robustbench_lite.bounds.graph.operations import Input, Shape, Sum
from robustbench_lite.errors import ModelError, UnsupportedLayerError, as_model_error, told
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.arithmetic import ARITHMETIC
from robustbench_lite.model.layers import ConvexAggregation

_PROBES = 3
"""Images that the graph is compared with the network on."""
_SAME = 1e-4
"""Largest difference, relative to the largest logit, between graph and network."""


@exactly
def graph_of(
    model: nn.Module, shape: Shape, dtype: torch.dtype = torch.float64, *, live: bool = False
) -> Graph:
    """Make the graph of a network.

    Args:
        model: in eval mode.
        shape: of its images, (C, H, W).
        dtype: of the bounds.
        live: lets gradients through to the weights.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
        ModelError: the graph does not compute what the network does (hooks, say).
    """
    root = nn.Sequential(model)  # so that a network of one layer is a layer, and not its inside
    try:
        traced = _Tracer().trace(root)
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        what = (
            f"{type(model).__name__} cannot be certified: its forward cannot be followed: "
            f"{told(error)}"
        )
        raise UnsupportedLayerError(f"{what} It must not branch on values.") from error
    weights = [*model.parameters(), *model.buffers()]
    if any(tensor.is_complex() for tensor in weights):
        raise UnsupportedLayerError(
            f"{type(model).__name__} has complex weights: no bound is known for those."
        )
    like = next((tensor for tensor in weights if tensor.is_floating_point()), torch.zeros(()))
    probe = torch.rand(_PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    failed = f"{type(model).__name__} fails on images of shape {tuple(shape)}"
    with as_model_error(failed), torch.set_grad_enabled(live):
        graph = Graph(_Walk(root, probe, dtype).build(traced), dtype)
    with as_model_error(failed), torch.no_grad():
        expected = model(probe.clone())
        found = graph.forward(probe)
    size = max(1.0, float(expected.abs().max()))
    if expected.dim() != 2 or float((expected - found).abs().max()) > _SAME * size:
        raise ModelError(
            f"{type(model).__name__} computes something else than its layers say (hooks, half "
            "precision or random layers?): it cannot be certified as it is."
        )
    return graph


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ConvexAggregation) or super().is_leaf_module(module, name)


class _Walk:
    """Goes over the traced calls, once, and has each built."""

    def __init__(self, root: nn.Module, probe: Tensor, dtype: torch.dtype) -> None:
        self.root = root
        self.builder = Builder(probe, dtype)
        self._layers: dict[str, Callable[..., Value]] = {
            "linear": self.builder.linear,
            "conv2d": self.builder.convolution,
            "avg_pool2d": self.builder.pool,
            "adaptive_avg_pool2d": self.builder.adaptive_pool,
        }

    def build(self, traced: fx.Graph) -> list[Node]:
        values: dict[fx.Node, Any] = {}
        for call in traced.nodes:
            if call.op == "output":
                self._check_logits(values[call.args[0]])
                break
            self.builder.call = call
            args = fx.node.map_arg(call.args, values.__getitem__)
            kwargs = fx.node.map_arg(call.kwargs, values.__getitem__)
            values[call] = self._value(call, args, kwargs)
        return self.builder.nodes

    def _check_logits(self, result: Any) -> None:
        last = len(self.builder.nodes) - 1
        if not isinstance(result, Value) or result.node != last or result.probe.dim() != 2:
            raise UnsupportedLayerError(
                "The network must end with its logits, (B, K), which depend on the image."
            )

    def _value(self, call: fx.Node, args: Any, kwargs: Any) -> Any:
        target = call.target
        if call.op == "placeholder":
            return self.builder.add(Input(), [], self.builder.probe)
        if call.op == "get_attr":
            return operator.attrgetter(str(target))(self.root)
        if call.op == "call_module":
            return self._module(self.root.get_submodule(str(target)), args)
        if not any(isinstance(part, Value) for part in [*_flat(args), *kwargs.values()]):
            if callable(target):
                return target(*args, **kwargs)
            return getattr(args[0], str(target))(*args[1:], **kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return self._function(name, args, kwargs)

    def _module(self, module: nn.Module, args: Any) -> Value:
        x: Value = args[0]
        match module:
            case ConvexAggregation():
                weights = tuple(self.builder.cast(module.coefficients))
                return self.builder.add(Sum(weights), args, module(*(part.probe for part in args)))
            case nn.Linear():
                return self.builder.linear(x, module.weight, module.bias)
            case nn.Conv2d() if module.padding_mode == "zeros":
                layout = module.stride, module.padding, module.dilation, module.groups
                return self.builder.convolution(x, module.weight, module.bias, *layout)
            case nn.AvgPool2d():
                return self.builder.pool(
                    x,
                    module.kernel_size,
                    module.stride,
                    module.padding,
                    module.ceil_mode,
                    module.count_include_pad,
                    module.divisor_override,
                )
            case nn.AdaptiveAvgPool2d():
                return self.builder.adaptive_pool(x, module.output_size)
            case nn.BatchNorm1d() | nn.BatchNorm2d() if (
                module.running_mean is not None and module.running_var is not None
            ):
                return self.builder.batch_norm(x, module)
            case nn.ReLU():
                return self.builder.activation(x, 0.0)
            case nn.LeakyReLU():
                return self.builder.activation(x, module.negative_slope)
            case nn.Flatten() | nn.Unflatten():
                return self.builder.reshape(x, module(x.probe))
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return x
        raise self.builder.unsupported(f"{type(module).__name__}")

    def _function(self, name: str, args: Any, kwargs: Any) -> Any:
        name = name.removesuffix("_")
        if name in ARITHMETIC and len(args) == 2 and not kwargs:
            return self._arithmetic(ARITHMETIC[name], *args)
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Value):
            raise self.builder.unsupported(f"{name}()")
        rest = args[1:]
        match name:
            case "relu":
                return self.builder.activation(x, 0.0)
            case "leaky_relu":
                return self.builder.activation(
                    x, rest[0] if rest else kwargs.get("negative_slope", 0.01)
                )
            case "flatten":
                return self.builder.reshape(x, torch.flatten(x.probe, *rest, **kwargs))
            case "view" | "reshape":
                return self.builder.reshape(x, x.probe.reshape(*rest, **kwargs))
            case "size":
                return x.probe.size(*rest, **kwargs)
            case "getattr" if rest == ("shape",):
                return x.probe.shape
            case "contiguous" | "clone":
                return x
            case "dropout" if not kwargs.get("training", True):
                return x
            case "linear" | "conv2d" | "avg_pool2d" | "adaptive_avg_pool2d":
                return self._layers[name](x, *rest, **kwargs)
        raise self.builder.unsupported(f"{name}()")

    def _arithmetic(self, sign: Callable[[Any, Any], Any], left: Any, right: Any) -> Value:
        linear = sign in (operator.add, operator.sub)
        if isinstance(left, Value) and isinstance(right, Value):
            if not linear or left.probe.shape != right.probe.shape:
                raise self.builder.unsupported(f"{sign.__name__} of two branches")
            return self.builder.add(
                Sum((1.0, sign(0.0, 1.0))), [left, right], sign(left.probe, right.probe)
            )
        x, other = (left, right) if isinstance(left, Value) else (right, left)
        constant = self.builder.constant(other)
        one = torch.ones((), dtype=self.builder.dtype, device=constant.device)
        if linear:
            if x is right and sign is operator.sub:
                return self.builder.scale(x, -one, constant)
            return self.builder.scale(x, one, sign(0.0, constant))
        if x is right and sign is operator.truediv:
            raise self.builder.unsupported("division by the image")
        return self.builder.scale(x, sign(one, constant), 0 * one)


def _flat(args: Any) -> list[Any]:
    return [part for arg in args for part in (arg if isinstance(arg, tuple | list) else [arg])]
