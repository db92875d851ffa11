"""From a network to a program for neighbours.

torch.fx follows the network's forward, and calls become windows as long as they can.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from robustbench_lite.model.fast.neighbours.operations import AffineOperation
from robustbench_lite.model.fast.neighbours.program import Program
from robustbench_lite.model.fast.neighbours.reading import Reader
from robustbench_lite.model.fast.neighbours.rest import Rest
from robustbench_lite.model.fast.neighbours.rules import Unfit
from robustbench_lite.model.fast.neighbours.steps import Steps
from robustbench_lite.model.fast.neighbours.tracing import Tracer, asks_shape, place_of
from robustbench_lite.model.fast.neighbours.values import Fact, Windowed
from robustbench_lite.model.fast.windows.pixels import Axes, Axis


class Build(NamedTuple):
    """What a network has become."""

    program: Program
    reasons: list[str]
    """Why it is run whole from where it is."""


def program_of(module: nn.Module, shape: tuple[int, ...]) -> Build:
    """Build the program of ``module`` for images of ``shape`` (C, H, W).

    Raises:
        Exception: whatever the network's code raises on a symbol or on probe images.
    """
    tensors = [*module.parameters(), *module.buffers()]
    weights = (tensor for tensor in tensors if tensor.is_floating_point())
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    probe = probe.to(next(weights, torch.zeros(())))
    root = nn.Sequential(module)  # so that a network of one layer is a layer, and not its inside
    root.training = False
    tracer = Tracer()
    traced = tracer.trace(root)
    builder = _Builder(root, probe, tracer.not_followed)
    return Build(builder.build(traced), builder.reasons)


class _Builder:
    """Walks over the traced calls, once, with the probes in hand.

    So every shape is known where it is needed.
    """

    def __init__(self, root: nn.Module, probe: Tensor, not_followed: Mapping[str, str]) -> None:
        self.root = root
        self.probe = probe
        self.values: dict[fx.Node, Windowed | Fact] = {}
        self.reader = Reader(root, not_followed, self.values)
        pixels = Axes(*(Axis(tuple(range(size)), 1, size) for size in probe.shape[2:]))
        self.steps = Steps(pixels)
        self.rest = fx.Graph()
        self.copies = dict[fx.Node, fx.Node]()
        self.crossings: dict[tuple[Windowed, bool], fx.Node] = {}
        self.reasons: list[str] = []

    def build(self, traced: fx.Graph) -> Program:
        """Build the program of what was ``traced``."""
        for node in traced.nodes:
            if node.op == "output":
                return self._finish(node.args[0])
            if node.op == "placeholder":
                self.values[node] = Windowed(0, self.probe, self.steps.pixels, front=())
            elif node.op == "get_attr":
                held = operator.attrgetter(str(node.target))(self.root)
                self.values[node] = Fact(held, fixed=True)
            elif (found := self._find(node)) is not None:
                self.values[node] = found
            else:
                self._hand_over(node)
        raise Unfit("it returns nothing")

    def _finish(self, result: Any) -> Program:
        """Make the program whose logits are ``result``."""
        if not isinstance(result, fx.Node):
            raise Unfit("it does not return one tensor")
        value = self.values.get(result)
        if isinstance(value, Fact):
            raise Unfit("its output does not depend on the image")
        if value is not None:
            return Program(self.steps.taken, [value.crossing(False)], self.root, None)
        self.rest.output(self.copies[result])
        probes = [value.shown.clone() for value, _ in self.crossings]
        cost = Rest(self.root, self.rest).cost(probes)
        return Program(
            self.steps.taken,
            [value.crossing(measured) for value, measured in self.crossings],
            self.root,
            self.rest,
            rest_cost=cost.multiplications,
            rest_values=cost.values,
        )

    def _find(self, node: fx.Node) -> Windowed | Fact | None:
        """Find out the result of ``node``; None where it belongs to the rest."""
        sources = node.all_input_nodes
        if any(source not in self.values for source in sources):
            return None
        inputs = [self.values[source] for source in sources]
        facts = [value for value in inputs if isinstance(value, Fact)]
        if len(facts) == len(inputs):
            return Fact(self.reader.evaluate(node), all(fact.fixed for fact in facts))
        if asks_shape(node):
            return Fact(self.reader.evaluate(node), fixed=False)
        try:
            call, among = self.reader.read(node)
            sole = isinstance(call.operation, AffineOperation) and self._is_sole(sources[0])
            value = self.steps.take(call, among, sole=sole)
        except Unfit as reason:
            self.reasons.append(f"{place_of(node)} {reason}")
            return None
        if self.reader.writes(node):
            # The old value is no more: what used it sees the new one from here on.
            self.values |= dict.fromkeys(self._holders(sources[0]), value)
        return value

    def _hand_over(self, node: fx.Node) -> None:
        """Leave ``node`` to the rest; and whatever it writes over, from here on."""
        self.copies[node] = self.rest.node_copy(node, self._copy)
        written = node.all_input_nodes[:1] if self.reader.writes(node) else []
        for other in self._holders(*written) if written and written[0] in self.values else []:
            self.copies[other] = self._copy(other)
            del self.values[other]

    def _holders(self, node: fx.Node) -> list[fx.Node]:
        """Find all that stand for the same value as ``node``."""
        return [other for other, value in self.values.items() if value is self.values[node]]

    def _is_sole(self, node: fx.Node) -> bool:
        """Tell whether one call alone asks for the value of ``node``."""
        held = self._holders(node)
        return len(held) == 1 and len(held[0].users) == 1

    def _copy(self, node: fx.Node, measured: bool = False) -> fx.Node:
        """Give what stands for ``node`` in the rest.

        Args:
            node: a call that was traced.
            measured: nothing but its shape is asked for.
        """
        if node in self.copies:
            return self.copies[node]
        value = self.values[node]
        if isinstance(value, Fact):
            self.copies[node] = self.rest.node_copy(
                node, lambda source: self._copy(source, measured=True)
            )
            return self.copies[node]
        if (value, measured) not in self.crossings:
            self.crossings[value, measured] = self.rest.placeholder(f"known_{len(self.crossings)}")
        return self.crossings[value, measured]
