"""Where rows begin on their way back: one for each of some units of a node of the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.bounds.graph.graph import Graph, Node
from robustbench_lite.bounds.graph.operations import Convolution, Linear
from robustbench_lite.bounds.windows import Window

ONE_UNIT = Window((1, 1), (0, 0), (1, 1))
"""The window of a row that is one unit of an image-shaped layer."""


class Units(NamedTuple):
    """M units of one node, in the order of their samples, that get a row each."""

    owner: Tensor
    """Their samples, (M,)."""
    unit: Tensor
    """(M,), as indices into the flattened values of the node."""
    run: int = 1
    """That of the ``Rows``: more than 1 for a convolution behind activations with parallel lines.
    """


class Costs(NamedTuple):
    """What the intercepts of the activations before a layer cost each of its units.

    (B, *shape) for all units of a node, (M,) for some of them.
    """

    lower: Tensor
    negative: Tensor
    """The same for each unit times -1."""

    def negated(self) -> Costs:
        """The costs of the units times -1."""
        return Costs(self.negative, self.lower)

    def at(self, units: Units) -> Costs:
        """Those of ``units``, (M,)."""
        return Costs(*(cost.flatten(1)[units.owner, units.unit] for cost in self))


@dataclass(frozen=True)
class Start:
    """M rows where they begin."""

    node: int
    """Whose values the coefficients are about."""
    a: Tensor
    """(M, *shape), or windows of such rows."""
    window: Window | None = None
    behind: bool = False
    """They are rows of a layer, over its input; otherwise they pick single values of the node
    itself.
    """
    offset: Tensor | None = None
    """What the layer adds to each, (M,)."""
    paid: Costs | None = None
    """For rows over the output of activations: what those cost each, (M,), known in advance."""

    @classmethod
    def of(cls, graph: Graph, node: int, units: Units, costs: Costs | None = None) -> Start:
        """Rows of ``units`` of ``node``, as far back as they are at hand.

        ``costs`` are those of all units of the node.
        """
        here = graph.nodes[node]
        match here.operation:
            case Linear() as layer:
                start = cls.linear(here, layer, units)
            case Convolution() as layer if units.run > 1 or layer.simple:
                start = cls.windowed(here, layer, units)
            case _:
                return cls.one_hot(graph, node, units)
        return start if costs is None else replace(start, paid=costs.at(units))

    @classmethod
    def linear(cls, node: Node, layer: Linear, units: Units) -> Start:
        """Rows of the weights of ``layer``."""
        (source,) = node.inputs
        offset = None if layer.bias is None else layer.bias[units.unit]
        return cls(source, layer.weight[units.unit], behind=True, offset=offset)

    @classmethod
    def windowed(cls, node: Node, layer: Convolution, units: Units) -> Start:
        """Give the kernels of ``layer`` to units in runs: (run, *size).

        They are the same for every run.
        """
        (source,) = node.inputs
        channel = _channel(node, units)
        kernels = layer.weight.contiguous() if units.run > 1 else layer.weight[channel]
        offset = None if layer.bias is None else layer.bias[channel]
        return cls(source, kernels, ONE_UNIT.behind(layer), behind=True, offset=offset)

    @classmethod
    def one_hot(cls, graph: Graph, node: int, units: Units) -> Start:
        """The units themselves: windows of one position, or whole rows, with a single 1."""
        here = graph.nodes[node]
        if len(here.shape) == 3:
            one = F.one_hot(_channel(here, units), here.shape[0]).to(graph.dtype)
            return cls(node, one[:, :, None, None], ONE_UNIT)
        whole = F.one_hot(units.unit, torch.Size(here.shape).numel()).to(graph.dtype)
        return cls(node, whole.reshape(-1, *here.shape))

    def negated(self) -> Start:
        """The same rows times -1."""
        return replace(
            self,
            a=-self.a,
            offset=None if self.offset is None else -self.offset,
            paid=None if self.paid is None else self.paid.negated(),
        )


def _channel(node: Node, units: Units) -> Tensor:
    return units.unit // (node.shape[1] * node.shape[2])
