"""Layers become nodes of the graph: which operation each is, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robustbench_lite.bounds.graph.graph import Node
from robustbench_lite.bounds.graph.operations import (
    Activation,
    Affine,
    Convolution,
    Linear,
    Operation,
    Pair,
    Reshape,
    Scale,
    fold,
)
from robustbench_lite.errors import UnsupportedLayerError

SUPPORTED = (
    "Linear, Conv2d, AvgPool2d, AdaptiveAvgPool2d, BatchNorm and Dropout (eval mode), ReLU, "
    "LeakyReLU, Flatten, Identity, "
    "sums of branches, and arithmetic with constants (normalisation)"
)


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image: its node, and what it is on the probes."""

    node: int
    probe: Tensor


class Builder:
    """Adds nodes, one layer after the other, with probe images in hand.

    Every shape is known where it is needed. ``call`` is the traced call that the next nodes are
    for; errors name it.
    """

    def __init__(self, probe: Tensor, dtype: torch.dtype) -> None:
        self.probe = probe
        self.dtype = dtype
        self.nodes: list[Node] = []
        self.call: fx.Node

    def add(self, operation: Operation, inputs: Any, probe: Tensor) -> Value:
        """Add a node for ``operation`` on ``inputs``; its result on the probes is ``probe``."""
        if len(probe) != len(self.probe):
            raise self.unsupported("a reshape that mixes images")
        name = str(self.call.target).removeprefix("0.")
        self.nodes.append(
            Node(operation, tuple(part.node for part in inputs), tuple(probe.shape[1:]), name)
        )
        return Value(len(self.nodes) - 1, probe)

    def linear(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
        if x.probe.dim() != 2:
            raise self.unsupported(f"Linear on {x.probe.dim() - 1}-dimensional features")
        return self.add(
            Linear(self.cast(weight), self.cast(bias)), [x], F.linear(x.probe, weight, bias)
        )

    def convolution(
        self,
        x: Value,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Value:
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[-2:], strict=True)]
            if any(part % 2 for part in total):
                raise self.unsupported("Conv2d with more padding on one side")
            padding = tuple(part // 2 for part in total)
        padding = (0, 0) if padding == "valid" else pair(padding)
        conv = Convolution(
            self.cast(weight), self.cast(bias), pair(stride), padding, pair(dilation), groups
        )
        return self.add(
            conv, [x], F.conv2d(x.probe, weight, bias, conv.stride, padding, conv.dilation, groups)
        )

    def pool(
        self,
        x: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        kernel = pair(kernel_size)
        channels = x.probe.shape[1]
        if ceil_mode or (not count_include_pad and pair(padding) != (0, 0)):
            raise self.unsupported("AvgPool2d with ceil_mode or with count_include_pad=False")
        share = 1.0 / (divisor_override or kernel[0] * kernel[1])
        weight = x.probe.new_full((channels, 1, *kernel), share)
        return self.convolution(
            x, weight, None, kernel if stride is None else stride, padding, 1, channels
        )

    def adaptive_pool(self, x: Value, output_size: Any) -> Value:
        sides = x.probe.shape[-2:]
        wanted = [
            side if size is None else size
            for side, size in zip(sides, pair(output_size), strict=True)
        ]
        if any(side % size for side, size in zip(sides, wanted, strict=True)):
            raise self.unsupported("AdaptiveAvgPool2d to a size that does not divide its input's")
        return self.pool(x, tuple(side // size for side, size in zip(sides, wanted, strict=True)))

    def batch_norm(self, x: Value, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Value:
        mean = self.cast(module.running_mean)
        variance = self.cast(module.running_var)
        weight = self.cast(module.weight)
        bias = self.cast(module.bias)
        scale = (variance + module.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (-1, *([1] * (x.probe.dim() - 2)))
        return self.scale(x, scale.reshape(shape), shift.reshape(shape))

    def scale(self, x: Value, scale: Tensor, shift: Tensor) -> Value:
        operation = Scale(scale, shift)
        probe = operation.forward(x.probe.to(self.dtype)).to(x.probe.dtype)
        if probe.shape != x.probe.shape:
            raise self.unsupported("arithmetic with a constant that changes the shape")
        before = self.nodes[x.node]
        source = self.call.all_input_nodes[0]
        alone = len(source.users) == 1 and x.node == len(self.nodes) - 1
        folded = None
        if alone and isinstance(before.operation, Affine):
            folded = fold(before.operation, operation)
        if folded is None:
            return self.add(operation, [x], probe)
        self.nodes[-1] = Node(folded, before.inputs, before.shape, before.name)
        return Value(x.node, probe)

    def activation(self, x: Value, slope: float) -> Value:
        if not 0 <= slope <= 1:
            raise self.unsupported(f"LeakyReLU with slope {slope} outside of [0, 1]")
        return self.add(Activation(slope), [x], Activation(slope)(x.probe))

    def reshape(self, x: Value, probe: Tensor) -> Value:
        return x if probe.shape == x.probe.shape else self.add(Reshape(), [x], probe)

    def constant(self, value: Any) -> Tensor:
        tensor = torch.as_tensor(value, dtype=self.dtype, device=self.probe.device)
        if tensor.dim() and tensor.dim() == self.probe.dim() and len(tensor) == 1:
            tensor = tensor[0]
        return tensor

    def cast(self, tensor: Any) -> Any:
        if tensor is None:
            return None
        return (tensor if torch.is_grad_enabled() else tensor.detach()).to(self.dtype)

    def unsupported(self, what: str) -> UnsupportedLayerError:
        name = str(self.call.target) if self.call.op == "call_module" else str(self.call.name)
        where = f"layer {name.removeprefix('0.')!r}" if name != "0" else "the network"
        return UnsupportedLayerError(
            f"No bound is known for {where}: {what}. Supported: {SUPPORTED}."
        )


def pair(value: Any) -> Pair:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second
