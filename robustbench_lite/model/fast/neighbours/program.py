"""A network made ready for neighbours.

Its first layers are maps of windows; the rest is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from robustbench_lite.model.fast.neighbours.rest import WRITING, Rest
from robustbench_lite.model.fast.windows.pixels import Axes, Spread, Windows
from robustbench_lite.model.fast.windows.rules import Rule
from robustbench_lite.rows.rows import SMALLEST_BATCH, at_least

MOST_VALUES = 4_000_000
"""Values that one tensor may hold on the way, 16 MB.

Points, and bases, are taken in parts so that none is larger.
"""
LARGEST_BATCH = 256
"""Rows that the rest of a network takes at once, at most."""


class ProgramStep(NamedTuple):
    """A layer whose windows are known.

    Its output is the value whose number is one more than its own place.
    """

    rule: Rule
    whole: Callable[..., Tensor]
    """The layer on whole images; it writes to none of its inputs."""
    inputs: tuple[int, ...]
    """Numbers of values: 0 is the image."""
    whole_cost: int
    """Multiplications for a whole image."""
    whole_values: int
    """Values of its output for a whole image."""
    values: int
    """Values a point of the largest tensor that its rule makes."""


class BranchCrossing(NamedTuple):
    """A value that the rest of the network takes, or that is the logits."""

    number: int
    axes: Axes | None
    front: Callable[[Tensor], Tensor] | None = None
    """What happened to the image alone since, for the image."""
    flat: bool = False
    """The map is handed on as vectors."""
    measured: bool = False
    """Nothing but its shape is asked for."""


class Known(NamedTuple):
    """What is remembered of the base."""

    prepared: list[tuple[Tensor, ...]]
    """For each step."""
    crossing: list[Tensor]
    """For each crossing, as the network has it."""


@dataclass(frozen=True)
class Program:
    """Carries changes through ``steps``, then puts them onto what is known.

    On that it runs the ``rest``.
    """

    steps: Sequence[ProgramStep]
    crossings: Sequence[BranchCrossing]
    root: nn.Module
    rest: fx.Graph | None
    """``None`` where the only crossing is the logits."""
    rest_cost: int = 0
    """Of the rest, for one row."""
    rest_values: int = 1
    """Values a row of the largest tensor in the rest."""

    @property
    def gain(self) -> float:
        """What a whole pass costs for one of a neighbour.

        It is 1 where no layer with weights is followed.
        """
        if not any(step.whole_cost for step in self.steps):
            return 1.0
        whole = sum(step.whole_cost + WRITING * step.whole_values for step in self.steps)
        windows = sum(step.rule.cost + WRITING * step.values for step in self.steps)
        return (whole + self.rest_cost) / max(1, windows + self.rest_cost)

    def on(self, module: nn.Module) -> Program:
        """Let ``module`` run the rest, in place of its twin that this was made of."""
        root = nn.Sequential(module)
        for name, value in vars(self.root).items():
            # What tracing has found in the forward's code, and kept there.
            if isinstance(value, Tensor):
                setattr(root, name, value)
        return replace(self, root=root)

    @cached_property
    def _last_use(self) -> dict[int, int]:
        return {number: at for at, step in enumerate(self.steps) for number in step.inputs}

    def logits(self, base: Tensor, owner: Tensor, place: Tensor, pixel: Tensor) -> Tensor:
        """Compute ``Incremental.logits``, as many bases and points at once as memory is for."""
        if not len(owner):
            nothing = torch.zeros(1, dtype=torch.int64)
            return self.logits(base[:1], nothing, nothing, base[:1, :, 0, 0])[:0]
        whole_values = max(1, sum(step.whole_values for step in self.steps))
        size = max(SMALLEST_BATCH, MOST_VALUES // whole_values)
        if len(base) <= size:
            return self._among(base, owner, place, pixel)
        parts = []
        order = []
        for start in range(0, len(base), size):
            mine = ((owner >= start) & (owner < start + size)).nonzero().squeeze(1)
            if len(mine):
                order.append(mine)
                some = base[start : start + size]
                parts.append(self._among(some, owner[mine] - start, place[mine], pixel[mine]))
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, torch.cat(order), found)

    def _among(self, base: Tensor, owner: Tensor, place: Tensor, pixel: Tensor) -> Tensor:
        """Compute the logits of points around bases few enough."""
        known = self.known(base)
        size = max(1, MOST_VALUES // max([1, *(step.values for step in self.steps)]))
        points = zip(*(torch.split(part, size) for part in (owner, place, pixel)), strict=True)
        parts = [
            part
            for some in points
            for part in self._answers(base, known, _image_windows(base, *some))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def known(self, base: Tensor) -> Known:
        """Compute what the steps need of ``base`` (B, C, H, W)."""
        values: dict[int, Tensor] = {0: at_least(base, SMALLEST_BATCH).clone()}
        crossing = {part.number for part in self.crossings}
        prepared = []
        for at, step in enumerate(self.steps):
            inputs = [values[number] for number in step.inputs]
            output = values[at + 1] = step.whole(*inputs)
            own = [part[: len(base)] for part in inputs]
            prepared.append(step.rule.prepare(own, output[: len(base)]))
            for number in step.inputs:
                if self._last_use[number] == at and number not in crossing:
                    values.pop(number, None)
        return Known(prepared, [values[part.number][: len(base)] for part in self.crossings])

    def _answers(self, base: Tensor, known: Known, image: Windows) -> Iterator[Tensor]:
        """Compute the logits, in the order of the points of ``image``, in batches of the rest."""
        windows = self._windows(known, image)
        ordered = {
            part.number: windows[part.number].as_ordered_in(image) for part in self.crossings
        }
        size = len(image.number)
        rest = None
        if self.rest is not None:
            rest = Rest(self.root, self.rest)  # one a call: it has a state
            size = max(SMALLEST_BATCH, min(LARGEST_BATCH, MOST_VALUES // self.rest_values))
        for start in range(0, len(image.number), size):
            inputs = []
            for part, whole in zip(self.crossings, known.crossing, strict=True):
                some = ordered[part.number].take(slice(start, start + size))
                inputs.append(_compose(part, some, whole, base))
            count = len(inputs[0])
            if rest is None:
                yield inputs[0]
            else:
                yield rest.run(*(at_least(part, SMALLEST_BATCH) for part in inputs))[:count]

    def _windows(self, known: Known, image: Windows) -> dict[int, Windows]:
        """Carry the change of ``image`` to what crosses, by number."""
        windows = {0: image}
        crossing = {part.number for part in self.crossings}
        for at, (step, prepared) in enumerate(zip(self.steps, known.prepared, strict=True)):
            own = all(
                self._last_use[number] == at
                and number not in crossing
                and number
                and self.steps[number - 1].rule.makes_anew
                for number in step.inputs
            )
            run = step.rule.overwriting if own else step.rule
            windows[at + 1] = run([windows[number] for number in step.inputs], prepared)
            for number in step.inputs:
                if self._last_use[number] == at and number not in crossing:
                    windows.pop(number, None)
        return windows


def _image_windows(base: Tensor, owner: Tensor, place: Tensor, pixel: Tensor) -> Windows:
    before = base.flatten(2)[owner, :, place]  # (N, C)
    width = base.shape[3]
    number = torch.arange(len(owner), device=owner.device)
    return Windows(torch.stack([before, pixel], 1), place // width, place % width, owner, number)


def _compose(crossing: BranchCrossing, windows: Windows, known: Tensor, base: Tensor) -> Tensor:
    """Put the crossing's value at each point together: new, and laid out as the network's own."""
    if crossing.measured:
        whole = known[:1].expand(len(windows.owner), *known.shape[1:])
        return whole.flatten(1) if crossing.flat else whole
    whole = known[windows.owner] if crossing.number else base[windows.owner]
    if crossing.front is not None:
        whole[torch.arange(len(whole)), :, windows.row, windows.column] = windows.change[:, 1]
        return crossing.front(whole)
    if crossing.axes is None:
        return whole + windows.change
    spread = Spread(crossing.axes, Axes.whole(whole.shape[2:], crossing.axes))
    change = spread(windows).permute(0, 3, 1, 2)
    # In the layout of the known value, whatever that of the change is: the network may take views
    # of it.
    whole = whole.add_(change)
    return whole.flatten(1) if crossing.flat else whole
