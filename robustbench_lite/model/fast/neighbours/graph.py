"""From a network to a program for neighbours: torch.fx follows its forward, and calls become
windows as long as they can.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustbench_lite.model.fast.neighbours.calls import (
    call_of_arithmetic,
    call_of_function,
    name_of,
    writes,
)
from robustbench_lite.model.fast.neighbours.layers import (
    Affine,
    Call,
    Elementwise,
    Flat,
    Linear,
    Same,
    call_of_module,
    hooked,
)
from robustbench_lite.model.fast.neighbours.program import Crossing, Program, Rest, Step
from robustbench_lite.model.fast.neighbours.rules import Unfit, needs_clear, rule_of, whole_cost
from robustbench_lite.model.fast.neighbours.tracing import Tracer, asks_shape, place_of
from robustbench_lite.model.fast.windows.pixels import Axes, Axis
from robustbench_lite.model.fast.windows.rules import Cleared, Front, Rule
from robustbench_lite.model.fast.windows.slides import SlidConvolution, WindowedConvolution


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor that depends on the image, whose windows are known."""

    number: int
    probe: Tensor
    """What it is on the probe images, as a map where ``flat``."""
    axes: Axes | None
    clear: bool = True
    """Nothing changes beyond the edges."""
    flat: bool = False
    """The map of that number, as vectors."""
    front: tuple[Callable[[Tensor], Tensor], ...] | None = None
    """For the image: what has happened to each of its pixels since."""

    @property
    def shown(self) -> Tensor:
        """The probe as the network has it."""
        return self.probe.flatten(1) if self.flat else self.probe


@dataclass(frozen=True, eq=False)
class _Fact:
    """What depends on no image, or on its shape alone."""

    value: Any
    fixed: bool
    """On no shape either."""


def program_of(module: nn.Module, shape: tuple[int, ...]) -> tuple[Program, list[str]]:
    """``module``, for images of ``shape`` (C, H, W), and why it is run whole from where it is.

    Raises:
        Exception: whatever the network's code raises on a symbol or on probe images.
    """
    weights = (
        tensor for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()
    )
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(
        next(weights, torch.zeros(()))
    )
    root = nn.Sequential(module)  # so that a network of one layer is a layer, and not its inside
    root.training = False
    tracer = Tracer()
    traced = tracer.trace(root)
    builder = _Builder(root, probe, tracer.not_followed)
    return builder.build(traced), builder.reasons


class _Builder:
    """Walks over the traced calls, once, with the probes in hand: every shape is known where it is
    needed.
    """

    def __init__(self, root: nn.Module, probe: Tensor, not_followed: Mapping[str, str]) -> None:
        self.root = root
        self.probe = probe
        self.not_followed = not_followed
        self.pixels = Axes(*(Axis(tuple(range(size)), 1, size) for size in probe.shape[2:]))
        self.values: dict[fx.Node, _Value | _Fact] = {}
        self.steps: list[Step] = []
        self.rest = fx.Graph()
        self.copies = dict[fx.Node, fx.Node]()
        self.crossings: dict[tuple[_Value, bool], fx.Node] = {}
        self.entered: dict[_Value, _Value] = {}
        self.reasons: list[str] = []

    def build(self, traced: fx.Graph) -> Program:
        for node in traced.nodes:
            if node.op == "output":
                return self._finished(node.args[0])
            if node.op == "placeholder":
                self.values[node] = _Value(0, self.probe, self.pixels, front=())
            elif node.op == "get_attr":
                self.values[node] = _Fact(
                    operator.attrgetter(str(node.target))(self.root), fixed=True
                )
            elif (found := self._found(node)) is not None:
                self.values[node] = found
            else:
                self._hand_over(node)
        raise Unfit("it returns nothing")

    def _finished(self, result: Any) -> Program:
        if not isinstance(result, fx.Node):
            raise Unfit("it does not return one tensor")
        value = self.values.get(result)
        if isinstance(value, _Fact):
            raise Unfit("its output does not depend on the image")
        if value is not None:
            return Program(self.steps, [_crossing(value, False)], self.root, None)
        self.rest.output(self.copies[result])
        crossings = [_crossing(*crossing) for crossing in self.crossings]
        cost = Rest(self.root, self.rest).cost([value.shown.clone() for value, _ in self.crossings])
        return Program(self.steps, crossings, self.root, self.rest, *cost)

    def _found(self, node: fx.Node) -> _Value | _Fact | None:
        """What is known of the result of ``node``; ``None`` where it belongs to the rest."""
        sources = node.all_input_nodes
        if any(source not in self.values for source in sources):
            return None
        inputs = [self.values[source] for source in sources]
        if not any(isinstance(value, _Value) for value in inputs):
            return _Fact(
                self._evaluated(node),
                all(value.fixed for value in inputs if isinstance(value, _Fact)),
            )
        if asks_shape(node):
            return _Fact(self._evaluated(node), fixed=False)
        try:
            call, among = self._call(node)
            value = self._stepped(node, call, among)
        except Unfit as reason:
            self.reasons.append(f"{place_of(node)} {reason}")
            return None
        if self._writes(
            node
        ):  # the old value is no more: what used it sees the new one from here on
            self.values |= dict.fromkeys(self._holders(sources[0]), value)
        return value

    def _hand_over(self, node: fx.Node) -> None:
        """Leave ``node`` to the rest; and whatever it writes over, from here on."""
        self.copies[node] = self.rest.node_copy(node, self._copy)
        written = node.all_input_nodes[:1] if self._writes(node) else []
        for other in self._holders(*written) if written and written[0] in self.values else []:
            self.copies[other] = self._copy(other)
            del self.values[other]

    def _holders(self, node: fx.Node) -> list[fx.Node]:
        """All that stand for the same value as ``node``."""
        return [other for other, value in self.values.items() if value is self.values[node]]

    def _evaluated(self, node: fx.Node) -> Any:
        def plain(source: fx.Node) -> Any:
            value = self.values[source]
            return value.value if isinstance(value, _Fact) else value.shown

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), plain)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        return (
            node.target(*args, **kwargs)
            if callable(node.target)
            else getattr(args[0], node.target)(*args[1:], **kwargs)
        )

    def _writes(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.root.get_submodule(str(node.target)), "inplace", False))
        return writes(node.target, node.kwargs, node.args)

    def _call(self, node: fx.Node) -> tuple[Call, list[_Value]]:
        """What ``node`` does, and to which values."""
        args = list(node.args) or [value for key, value in node.kwargs.items() if key == "input"]
        values = [self.values[arg] if isinstance(arg, fx.Node) else arg for arg in args]
        among = [value for value in values if isinstance(value, _Value)]
        shapes = [value.shown.shape for value in among]
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            call = (
                call_of_module(module, shapes)
                if len(among) == len(values) and not node.kwargs
                else None
            )
            if call is None:
                reason = self.not_followed.get(str(node.target), "has no rule for windows")
                raise Unfit(
                    "has hooks" if hooked(module) else f"({type(module).__name__}) {reason}"
                )
            return call, among
        call = None
        if len(values) == 2 and not node.kwargs and len({tuple(shape) for shape in shapes}) == 1:
            left, right = (
                None if isinstance(value, _Value) else self._constant(arg)
                for arg, value in zip(args, values, strict=True)
            )
            call = call_of_arithmetic(node.target, left, right, shapes[0])
        if call is None and len(among) == 1 and values[0] is among[0]:
            resized = name_of(node.target) in ("view", "reshape")
            rest, kwargs = fx.node.map_arg(
                (tuple(args[1:]), node.kwargs), lambda source: self._constant(source, resized)
            )
            kwargs = {key: value for key, value in kwargs.items() if key != "input"}
            call = call_of_function(node.target, rest, kwargs, shapes[0])
        if call is None:
            raise Unfit("has no rule for windows")
        return call, among

    def _constant(self, arg: Any, resized: bool = False) -> Any:
        """``arg`` where it depends on nothing; where something is ``resized``, it may depend on a
        shape.
        """
        value = self.values[arg] if isinstance(arg, fx.Node) else _Fact(arg, fixed=True)
        if not isinstance(value, _Fact) or not (value.fixed or resized):
            raise Unfit("depends on the image in more than one way")
        return value.value

    def _stepped(self, node: fx.Node, call: Call, among: list[_Value]) -> _Value:
        """The result of ``call``, with a step more if it takes one."""
        operation = call.operation
        first = among[0]
        if isinstance(operation, Same):
            return first
        if (
            isinstance(operation, Elementwise | Affine)
            and first.front is not None
            and len(among) == 1
        ):
            return replace(first, probe=call.whole(first.probe), front=(*first.front, call.whole))
        among = [self._entered(value) for value in among]
        first = among[0]
        if isinstance(operation, Flat):
            return replace(first, flat=True)
        if len({value.flat for value in among}) > 1:
            raise Unfit("joins maps and vectors")
        if (
            isinstance(operation, Affine)
            and operation.factor is not None
            and self._sole(node, first)
        ):
            rule = self.steps[first.number - 1].rule
            if isinstance(rule, WindowedConvolution | SlidConvolution):
                return self._folded(rule, operation.factor, call.whole, first)
        whole = (
            _of_vectors(call.whole) if first.flat and isinstance(operation, Linear) else call.whole
        )
        probe = whole(*(value.probe for value in among))
        rule = rule_of(call, [value.axes for value in among], first.flat, first.probe, probe.shape)
        if needs_clear(operation):
            among = [self._cleared(value) for value in among]
        value = self._add(rule, whole, among, probe, whole_cost(operation, probe.shape))
        return replace(value, flat=first.flat and value.axes is not None)

    def _add(
        self,
        rule: Rule,
        whole: Callable[..., Tensor],
        among: Sequence[_Value],
        probe: Tensor,
        cost: int = 0,
    ) -> _Value:
        area = 1 if rule.after is None else rule.after.area
        features = probe.shape[1]
        inputs = tuple(value.number for value in among)
        self.steps.append(
            Step(rule, whole, inputs, cost, probe[0].numel(), max(area * features, rule.scratch))
        )
        kept = not rule.reaches_out and all(value.clear for value in among)
        clear = rule.clears or kept or rule.after is None or rule.after.inside
        return _Value(len(self.steps), probe, rule.after, clear)

    def _entered(self, value: _Value) -> _Value:
        """``value`` as windows, if it is the image still."""
        if value.front is None:
            return value
        if value not in self.entered:
            front = _chained(value.front)
            self.entered[value] = self._add(Front(self.pixels, front), front, [value], value.probe)
        return self.entered[value]

    def _cleared(self, value: _Value) -> _Value:
        if value.clear or value.axes is None:
            return value
        return self._add(Cleared(value.axes), _itself, [value], value.probe)

    def _sole(self, node: fx.Node, value: _Value) -> bool:
        """Nothing but ``node`` asks for ``value``, the last that was made."""
        held = self._holders(node.all_input_nodes[0])
        return (
            value.number == len(self.steps)
            and len(held) == 1
            and len(held[0].users) == 1
            and not value.flat
        )

    def _folded(
        self,
        rule: WindowedConvolution | SlidConvolution,
        factor: Tensor,
        whole: Callable[..., Tensor],
        value: _Value,
    ) -> _Value:
        """The convolution that made ``value``, with its channels times ``factor``."""
        step = self.steps[-1]
        rule = rule.scaled(factor.expand(value.probe.shape[1]))
        self.steps[-1] = step._replace(rule=rule, whole=_chained((step.whole, whole)))
        return replace(value, probe=whole(value.probe))

    def _copy(self, node: fx.Node, measured: bool = False) -> fx.Node:
        """What stands for ``node`` in the rest; ``measured``: nothing but its shape is asked
        for.
        """
        if node in self.copies:
            return self.copies[node]
        value = self.values[node]
        if isinstance(value, _Fact):
            self.copies[node] = self.rest.node_copy(
                node, lambda source: self._copy(source, measured=True)
            )
            return self.copies[node]
        if (value, measured) not in self.crossings:
            self.crossings[value, measured] = self.rest.placeholder(f"known_{len(self.crossings)}")
        return self.crossings[value, measured]


def _crossing(value: _Value, measured: bool) -> Crossing:
    return Crossing(
        value.number,
        value.axes,
        None if value.front is None else _chained(value.front),
        value.flat,
        measured,
    )


def _chained(functions: Sequence[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    """One after the other."""
    return lambda *x: (
        reduce(lambda y, function: function(y), functions[1:], functions[0](*x))
        if functions
        else x[0]
    )


def _of_vectors(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.flatten(1))


def _itself(x: Tensor) -> Tensor:
    return x
