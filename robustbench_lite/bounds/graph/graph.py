"""A network as a graph of operations that the bounds know, one node a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.bounds.graph.operations import (
    Activation,
    Affine,
    Input,
    Operation,
    Reshape,
    Shape,
    Sum,
)


@dataclass(frozen=True)
class Node:
    operation: Operation
    inputs: tuple[int, ...]
    shape: Shape
    """Of one sample, without the row."""
    name: str


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which inputs come first.

    The first is the image, the last gives the logits.
    """

    nodes: list[Node]
    dtype: torch.dtype

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @property
    def classes(self) -> int:
        return self.nodes[-1].shape[0]

    def activations(self) -> list[int]:
        return [
            index for index, node in enumerate(self.nodes) if isinstance(node.operation, Activation)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of ``x`` (B, *shape)."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """What every node computes, (B, *shape) each."""
        values: list[Tensor] = []
        for node in self.nodes:
            parts = [values[index] for index in node.inputs]
            match node.operation:
                case Input():
                    values.append(x.to(self.dtype))
                case Affine():
                    values.append(node.operation.forward(parts[0]))
                case Activation():
                    values.append(node.operation(parts[0]))
                case Sum(weights):
                    values.append(
                        sum(
                            (w * part for w, part in zip(weights, parts, strict=True)),
                            torch.zeros_like(parts[0]),
                        )
                    )
                case Reshape():
                    values.append(parts[0].reshape(len(x), *node.shape))
        return values
