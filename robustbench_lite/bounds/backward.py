"""The backward engine: linear coefficients of chosen outputs, from a node back to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.bounds.graph.graph import Graph
from robustbench_lite.bounds.graph.operations import (
    Activation,
    Affine,
    Convolution,
    Input,
    Reshape,
    Scale,
    Sum,
)
from robustbench_lite.bounds.region import Extremes, Interval, Region
from robustbench_lite.bounds.relaxation import Lines
from robustbench_lite.bounds.relaxed import relax
from robustbench_lite.bounds.starts import ONE_UNIT, Start
from robustbench_lite.bounds.windows import Window, WindowRows
from robustbench_lite.machine.kernels import works_in_caches


class Pending(NamedTuple):
    """Rows that wait at a node: coefficients (M, *shape), or windows of such rows."""

    a: Tensor
    window: Window | None


@dataclass
class Backward:
    """One pass: M rows on their way back, each with what it has gathered so far.

    A row stands for ``sum of coefficients . nodes + constant``. ``negative`` is the constant of the
    row times -1, which goes the same way as long as the lines of every activation are parallel;
    otherwise it means nothing.
    """

    graph: Graph
    rows: WindowRows
    pending: dict[int, Pending] = field(default_factory=dict)
    constant: Tensor = field(init=False)
    negative: Tensor = field(init=False)

    def __post_init__(self) -> None:
        like = torch.zeros(
            len(self.rows.owner), dtype=self.graph.dtype, device=self.rows.owner.device
        )
        self.constant = like
        self.negative = like

    def start(self, node: int, a: Tensor, window: Window | None = None) -> None:
        """Rows ``a`` (M, *shape) about the values of ``node``, or windows of such rows."""
        if node not in self.pending:
            self.pending[node] = Pending(a, window)
            return
        other, seen = self.pending[node]
        if window is None or seen is None or window.stride != seen.stride:
            whole = self._whole(node, a, window) + self._whole(node, other, seen)
            self.pending[node] = Pending(whole, None)
            return
        both = window.with_other(seen)
        self.pending[node] = Pending(window.grown(a, both) + seen.grown(other, both), both)

    def begin(self, start: Start, lines: Mapping[int, Lines]) -> None:
        """Begin with rows of single units.

        Where their costs are known, they go on past the ``lines`` of the activations before them.
        """
        self._shift(start.offset)
        if start.paid is not None:
            self._book(start.paid.lower, start.paid.negative)
            if self.rows.run > 1:
                a = self.rows.scale_layer(start.a, lines[start.node].above, start.window)
            else:
                a = self._multiply(start.a, lines[start.node], None, start.window)
            (source,) = self.graph.nodes[start.node].inputs
            self._to(source, a, start.window, masked=True)  # slopes are 0 in the padding
        elif start.behind:
            self._to(start.node, start.a, start.window)
        else:
            self.start(start.node, start.a, start.window)

    def run(
        self,
        region: Region,
        lines: Mapping[int, Lines],
        below: Mapping[int, Tensor] | None = None,
        stop: Mapping[int, Interval] | None = None,
    ) -> Extremes:
        """Bounds over ``region``, through the ``lines`` of the activations.

        Args:
            below: slopes of the lower lines for each row, (M, *shape), instead of those of its
                sample.
            stop: rows end at activations, whose values lie in these intervals, (B, *shape).
        """
        for index in range(max(self.pending), -1, -1):
            if index not in self.pending:
                continue
            a, window = self.pending.pop(index)
            node = self.graph.nodes[index]
            match node.operation:
                case Input():
                    ends = region.lowest(a, self.rows, window)
                    self._book(ends.lower, ends.negative)
                case Activation() if stop is not None:
                    self._end(a, window, stop[index])
                case Activation() if below is None and window is None and works_in_caches(a.device):
                    behind = relax(a, lines[index], self.rows.segments)
                    self._book(behind.cost, behind.negative)
                    self.start(node.inputs[0], behind.rows)
                case Activation():
                    self._pay(a, lines[index].intercept, window)
                    own = None if below is None else below[index]
                    self.start(node.inputs[0], self._multiply(a, lines[index], own, window), window)
                case Sum(weights):
                    for source, weight in zip(node.inputs, weights, strict=True):
                        self.start(source, a if weight == 1 else a * weight, window)
                case Reshape():
                    a = self._whole(index, a, window)
                    self.start(
                        node.inputs[0], a.reshape(len(a), *self.graph.nodes[node.inputs[0]].shape)
                    )
                case Affine():
                    self._through(index, node.operation, a, window)
        return Extremes(self.constant, self.negative)

    def _through(self, index: int, operation: Affine, a: Tensor, window: Window | None) -> None:
        (source,) = self.graph.nodes[index].inputs
        local = isinstance(operation, Convolution)
        local = local or (isinstance(operation, Scale) and operation.uniform)
        if window is not None and not local:
            a = self._whole(index, a, window)
            window = None
        self._shift(operation.offset(a))
        if isinstance(operation, Convolution) and window is not None:
            self._to(source, operation.transpose_window(a), window.behind(operation))
        else:
            self.start(source, operation.transpose(a, self.graph.nodes[source].shape), window)

    def _to(self, source: int, a: Tensor, window: Window | None, *, masked: bool = False) -> None:
        """Keep rows that a layer has left in its input.

        Windows are masked, and made whole once that is the smaller.
        """
        node = self.graph.nodes[source]
        if window is not None and window.size[0] * window.size[1] >= node.shape[1] * node.shape[2]:
            a = self.rows.spread(a, node.shape, window)
            window = None
        # At activations and at the image, what is gathered is zero in the padding anyway.
        elif (
            window is not None
            and not (masked or isinstance(node.operation, Activation | Input))
            and window.leaves(node.shape, self.rows.grid)
        ):
            a = a * self.rows.mask(a, node.shape, window)
        self.start(source, a, window)

    def _pay(self, a: Tensor, intercept: Tensor, window: Window | None) -> None:
        """Book what the intercepts cost.

        They are those of the upper lines, which negative coefficients meet.
        """
        cost = self.rows.dot(a.clamp(max=0), intercept, window)
        total = self.rows.dot(a, intercept, window)
        self._book(cost, cost - total)

    def _book(self, cost: Tensor, negative: Tensor) -> None:
        """Add (M,) to the constants of the rows, and to those of the rows times -1."""
        self.constant = self.constant + cost
        self.negative = self.negative + negative

    def _multiply(
        self, a: Tensor, lines: Lines, below: Tensor | None, window: Window | None
    ) -> Tensor:
        """Rows over an activation's input, from rows over its output."""
        if lines.parallel and below is None:
            return self.rows.times(a, lines.above, window)
        down = self.rows.times(a.clamp(max=0), lines.above, window)
        up = a.clamp_min(0)
        return down + (self.rows.times(up, lines.below, window) if below is None else up * below)

    def _end(self, a: Tensor, window: Window | None, values: Interval) -> None:
        up = a.clamp_min(0)
        down = a.clamp(max=0)
        least = self.rows.dot(up, values.lower, window) + self.rows.dot(down, values.upper, window)
        most = self.rows.dot(up, values.upper, window) + self.rows.dot(down, values.lower, window)
        self.constant = self.constant + least
        self.negative = self.negative - most

    def _shift(self, offset: Tensor | None) -> None:
        if offset is not None:
            self.constant = self.constant + offset
            self.negative = self.negative - offset

    def _whole(self, index: int, a: Tensor, window: Window | None) -> Tensor:
        return a if window is None else self.rows.spread(a, self.graph.nodes[index].shape, window)


def widest_row(graph: Graph, node: int, *, at_units: bool) -> int:
    """The most values that one row holds at a node on its way back from ``node``."""
    windows: dict[int, Window | None] = {
        node: ONE_UNIT if at_units and len(graph.nodes[node].shape) == 3 else None
    }
    widest = 1
    for index in range(node, 0, -1):
        if index not in windows:
            continue
        window = windows[index]
        here = graph.nodes[index]
        for source in here.inputs:
            shape = graph.nodes[source].shape
            behind = window
            if window is not None and isinstance(here.operation, Convolution):
                behind = window.behind(here.operation)
            if behind is not None and (
                len(shape) != 3 or behind.size[0] * behind.size[1] >= shape[1] * shape[2]
            ):
                behind = None
            values = torch.Size(shape).numel()
            if behind is not None:
                values = shape[0] * behind.size[0] * behind.size[1]
            widest = max(widest, int(values))
            other = windows.get(source, behind)
            if other is not None and behind is not None:
                behind = behind.with_other(other)
            windows[source] = behind
    return widest
