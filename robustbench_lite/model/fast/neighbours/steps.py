"""The steps of a program, one call after the other: layers whose windows are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from robustbench_lite.model.fast.neighbours.operations import (
    AffineOperation,
    Call,
    Elementwise,
    Flat,
    LinearOperation,
    Same,
)
from robustbench_lite.model.fast.neighbours.program import ProgramStep
from robustbench_lite.model.fast.neighbours.rules import Unfit, needs_clear, rule_of, whole_cost
from robustbench_lite.model.fast.neighbours.values import Windowed, chain
from robustbench_lite.model.fast.windows.pixels import Axes
from robustbench_lite.model.fast.windows.rules import Cleared, Front, Rule
from robustbench_lite.model.fast.windows.slides import SlidConvolution, WindowedConvolution


class Steps:
    """Gathers steps; value n > 0 is the output of the step n - 1, value 0 the image."""

    def __init__(self, pixels: Axes) -> None:
        self.pixels = pixels
        """Where the windows of the image lie: each is its pixel."""
        self.taken: list[ProgramStep] = []
        self._entrances: dict[Windowed, Windowed] = {}

    def take(self, call: Call, among: Sequence[Windowed], *, sole: bool) -> Windowed:
        """Do ``call``, with a step more if it takes one.

        Args:
            call: what is done.
            among: the values that it is done to.
            sole: nothing else asks for the first of them.

        Raises:
            Unfit: windows cannot follow it.
        """
        operation = call.operation
        first = among[0]
        if isinstance(operation, Same):
            return first
        pixelwise = isinstance(operation, Elementwise | AffineOperation) and len(among) == 1
        if pixelwise and first.front is not None:
            return replace(first, probe=call.whole(first.probe), front=(*first.front, call.whole))
        among = [self._enter(value) for value in among]
        first = among[0]
        if isinstance(operation, Flat):
            return replace(first, flat=True)
        if len({value.flat for value in among}) > 1:
            raise Unfit("joins maps and vectors")
        if isinstance(operation, AffineOperation) and operation.factor is not None and sole:
            scaled = self._fold(operation.factor, call.whole, first)
            if scaled is not None:
                return scaled
        return self._add_layer(call, among)

    def _add_layer(self, call: Call, among: Sequence[Windowed]) -> Windowed:
        operation = call.operation
        first = among[0]
        of_vectors = first.flat and isinstance(operation, LinearOperation)
        whole = _flatten_before(call.whole) if of_vectors else call.whole
        probe = whole(*(value.probe for value in among))
        axes = [value.axes for value in among]
        rule = rule_of(call, axes, first.flat, first.probe, probe.shape)
        if needs_clear(operation):
            among = [self._clear(value) for value in among]
        value = self._add(rule, whole, among, probe, whole_cost(operation, probe.shape))
        return replace(value, flat=first.flat and value.axes is not None)

    def _add(
        self,
        rule: Rule,
        whole: Callable[..., Tensor],
        among: Sequence[Windowed],
        probe: Tensor,
        cost: int = 0,
    ) -> Windowed:
        """Add a step by ``rule`` whose output on the probes is ``probe``."""
        area = 1 if rule.after is None else rule.after.area
        features = probe.shape[1]
        step = ProgramStep(
            rule=rule,
            whole=whole,
            inputs=tuple(value.number for value in among),
            whole_cost=cost,
            whole_values=probe[0].numel(),
            values=max(area * features, rule.scratch),
        )
        self.taken.append(step)
        kept = not rule.reaches_out and all(value.clear for value in among)
        clear = rule.clears or kept or rule.after is None or rule.after.inside
        return Windowed(len(self.taken), probe, rule.after, clear)

    def _enter(self, value: Windowed) -> Windowed:
        """Make windows of ``value``, if it is the image still."""
        if value.front is None:
            return value
        if value not in self._entrances:
            front = chain(value.front)
            rule = Front(self.pixels, front)
            self._entrances[value] = self._add(rule, front, [value], value.probe)
        return self._entrances[value]

    def _clear(self, value: Windowed) -> Windowed:
        """Let nothing of ``value`` change beyond the edges."""
        if value.clear or value.axes is None:
            return value
        return self._add(Cleared(value.axes), lambda x: x, [value], value.probe)

    def _fold(
        self, factor: Tensor, whole: Callable[..., Tensor], value: Windowed
    ) -> Windowed | None:
        """Multiply the channels of the convolution that made ``value`` by ``factor``.

        None where the last step is no convolution, or has not made it.
        """
        if value.number != len(self.taken) or value.flat:
            return None
        step = self.taken[-1]
        if not isinstance(step.rule, WindowedConvolution | SlidConvolution):
            return None
        rule = step.rule.scale(factor.expand(value.probe.shape[1]))
        self.taken[-1] = step._replace(rule=rule, whole=chain((step.whole, whole)))
        return replace(value, probe=whole(value.probe))


def _flatten_before(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.flatten(1))
