"""Bounds of every hidden unit, layer by layer.

They are by intervals, and by backward rows for the units that intervals leave open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.bounds.backward import Backward, widest_row
from robustbench_lite.bounds.graph.graph import Graph
from robustbench_lite.bounds.graph.operations import (
    Activation,
    Affine,
    Convolution,
    Input,
    Linear,
    Reshape,
    Scale,
    Shape,
    Sum,
)
from robustbench_lite.bounds.region import Extremes, Interval, Region
from robustbench_lite.bounds.relaxation import Lines, adaptive, chord, chord_image, image
from robustbench_lite.bounds.starts import Costs, Start, Units
from robustbench_lite.bounds.windows import WindowRows
from robustbench_lite.machine.kernels import works_in_caches

Relaxation = Callable[[Activation, Interval], Lines]
Bounds = dict[int, Interval]
"""Node -> the interval of its values, (B, *shape)."""

CHUNK = 2**19
"""Coefficients that one pass holds at a node, at most (unless one row has more): 4 MiB stay in the
caches of a CPU.
"""
WHOLE = 2 / 3
"""Share of a convolution's units that want a row from which on all of them get one."""


@dataclass(frozen=True)
class Method:
    """How hidden units are bounded."""

    relaxation: Relaxation
    image: Callable[[Activation, Interval], Interval]
    """What is known of an activation's values before rows go back."""
    rows: bool = True
    """Open units get backward rows; without, intervals are all there is."""


INTERVALS = Method(adaptive, image, rows=False)
CHORDS = Method(chord, chord_image)
ADAPTIVE = Method(adaptive, image)


@dataclass(frozen=True)
class Bounding:
    """B samples of one network, and what may be done to them."""

    graph: Graph
    region: Region
    chunk: int = CHUNK

    @property
    def samples(self) -> int:
        return len(self.region.box.lower)

    def take(self, index: Tensor) -> Bounding:
        return Bounding(self.graph, self.region.take(index), self.chunk)


def hidden_bounds(problem: Bounding, method: Method) -> Bounds:
    """Intervals of all nodes but the last ones that no activation follows."""
    graph = problem.graph
    found = Bounds()
    activations = graph.activations()
    read = {graph.nodes[index].inputs[0] for index in activations}
    lines: dict[int, Lines] = {}
    for index in range(max(activations, default=-1) + 1):
        found[index] = node_interval(problem, index, found, method)
        if index in read and method.rows and not is_exact(problem, index):
            found[index] = _tighten(problem, index, found[index], lines, method)
        operation = graph.nodes[index].operation
        if isinstance(operation, Activation) and method.rows:
            lines[index] = method.relaxation(operation, found[graph.nodes[index].inputs[0]])
    return found


def lines_of(problem: Bounding, bounds: Bounds, relaxation: Relaxation) -> dict[int, Lines]:
    """The lines of every activation, (B, *shape)."""
    nodes = problem.graph.nodes
    return {
        index: relaxation(nodes[index].operation, bounds[nodes[index].inputs[0]])  # type: ignore[arg-type]
        for index in problem.graph.activations()
    }


def node_interval(problem: Bounding, index: int, found: Bounds, method: Method) -> Interval:
    """The interval of node ``index`` from those of its inputs."""
    node = problem.graph.nodes[index]
    parts = [found[source] for source in node.inputs]
    match node.operation:
        case Input():
            return problem.region.box
        case Activation():
            return method.image(node.operation, parts[0])
        case Reshape():
            return Interval(*(side.reshape(len(side), *node.shape) for side in parts[0]))
        case Sum(weights):
            centres = [
                w * (part.lower + part.upper) / 2 for w, part in zip(weights, parts, strict=True)
            ]
            radii = [
                w * (part.upper - part.lower) / 2
                for w, part in zip(node.operation.sizes, parts, strict=True)
            ]
            return _around(sum(centres[1:], centres[0]), sum(radii[1:], radii[0]))
        case Affine():
            lower, upper = parts[0]
            return _around(
                node.operation.forward((lower + upper) / 2),
                node.operation.spread((upper - lower) / 2),
            )
    raise TypeError(f"No interval is known for {node.operation}.")


def _around(centre: Tensor, radius: Tensor) -> Interval:
    return Interval(centre - radius, centre + radius)


def is_exact(problem: Bounding, index: int) -> bool:
    """Say whether the interval of the node is exact: one layer after a box, say."""
    nodes = problem.graph.nodes
    if not problem.region.is_box:
        return False
    mixed = 0
    while nodes[index].inputs:
        operation = nodes[index].operation
        if isinstance(operation, Activation | Sum):
            return False
        mixed += not isinstance(operation, Scale | Reshape)
        (index,) = nodes[index].inputs
    return mixed <= 1


def _tighten(
    problem: Bounding, node: int, known: Interval, lines: dict[int, Lines], method: Method
) -> Interval:
    """``known`` with the units that it leaves open bounded by backward rows."""
    shape = problem.graph.nodes[node].shape
    lower = known.lower.flatten(1).clone()
    upper = known.upper.flatten(1).clone()
    costs = _costs(problem, node, lines)
    for units in _units(
        problem, node, (lower < 0) & (upper > 0), whole=method is CHORDS and costs is not None
    ):
        for part in chunks(problem, node, len(units.owner), at_units=True, run=units.run):
            at = units.owner[part], units.unit[part]
            ends = _unit_bounds(problem, node, Units(*at, units.run), lines, costs)
            if method is CHORDS:  # the published bound itself, even where an interval was tighter
                lower[at] = ends.lower
                upper[at] = -ends.negative
            else:
                lower[at] = torch.maximum(lower[at], ends.lower)
                upper[at] = torch.minimum(upper[at], -ends.negative)
    return Interval(lower.reshape(-1, *shape), upper.reshape(-1, *shape))


def _units(problem: Bounding, node: int, wanted: Tensor, *, whole: bool) -> Iterator[Units]:
    """The units of ``node`` that get rows: those ``wanted`` (B, units).

    With ``whole``, a convolution gets those of all units in samples that want the most of them: its
    weights are multiplied as they are then, and none is looked up. The others are closed either way
    (``chord_image``).
    """
    operation = problem.graph.nodes[node].operation
    shape = problem.graph.nodes[node].shape
    if (
        whole
        and isinstance(operation, Convolution)
        and operation.simple
        and works_in_caches(wanted.device)
    ):
        most = wanted.sum(1) > WHOLE * wanted.shape[1]
        samples = most.nonzero().squeeze(1)
        if len(samples):
            by_position = torch.arange(wanted.shape[1]).reshape(shape[0], -1).T.flatten()
            yield Units(
                samples.repeat_interleave(len(by_position)),
                by_position.repeat(len(samples)),
                shape[0],
            )
            wanted = wanted & ~most.unsqueeze(1)
    owner, unit = wanted.nonzero(as_tuple=True)
    yield Units(owner, unit)


def _unit_bounds(
    problem: Bounding, node: int, units: Units, lines: dict[int, Lines], costs: Costs | None
) -> Extremes:
    """Lower bounds of ``units`` of ``node``, and of the units times -1."""
    rows = _rows_of(problem.graph.nodes[node].shape, units)
    start = Start.of(problem.graph, node, units, costs)
    ends = _run(problem, rows, start, lines)
    if all(line.parallel for line in lines.values()):
        return ends
    return Extremes(ends.lower, _run(problem, rows, start.negated(), lines).lower)


def _rows_of(shape: Shape, units: Units) -> WindowRows:
    """What rows of ``units`` of a node of ``shape`` are about."""
    if len(shape) < 3:
        return WindowRows.of(units.owner)
    position = units.unit % (shape[1] * shape[2])
    return WindowRows.of(units.owner, position, (shape[1], shape[2]), units.run)


def _run(problem: Bounding, rows: WindowRows, start: Start, lines: dict[int, Lines]) -> Extremes:
    back = Backward(problem.graph, rows)
    back.begin(start, lines)
    return back.run(problem.region, lines)


def _costs(problem: Bounding, node: int, lines: dict[int, Lines]) -> Costs | None:
    """Book for all units, in one forward pass, what the lines before them cost.

    Returns:
        None unless the layer follows activations.
    """
    operation = problem.graph.nodes[node].operation
    inputs = problem.graph.nodes[node].inputs
    if not isinstance(operation, Linear | Convolution) or inputs[0] not in lines:
        return None
    intercept = lines[inputs[0]].intercept
    total = operation.forward(intercept) - operation.forward(torch.zeros_like(intercept[:1]))
    size = operation.spread(intercept)
    return Costs((total - size) / 2, -(total + size) / 2)


def chunks(problem: Bounding, node: int, rows: int, *, at_units: bool, run: int = 1) -> list[slice]:
    """Slice rows to the chunk size of a pass back from ``node``, with no ``run`` torn apart."""
    size = max(1, problem.chunk // (run * widest_row(problem.graph, node, at_units=at_units))) * run
    return [slice(start, start + size) for start in range(0, rows, size)]
