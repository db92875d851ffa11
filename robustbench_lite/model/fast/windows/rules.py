"""What each kind of layer makes of the change of one pixel, window by window.

``slides`` has those with a kernel, ``linear`` those that end the map. Activations look at the
base's own values around the pixel. Beyond the edges of a layer a change may be anything until
``Cleared``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.model.fast.windows.pixels import (
    Axes,
    Cut,
    Spread,
    Windows,
    join,
    outside,
)


@dataclass(frozen=True)
class Rule(ABC):
    """One layer."""

    after: Axes | None
    """Where windows lie behind it; None where its output has no places."""
    makes_anew: ClassVar[bool] = False
    """Whether its output shares no memory with its inputs."""

    @property
    def cost(self) -> int:
        """Multiplications a point."""
        return 0

    @property
    def scratch(self) -> int:
        """Values a point of what it makes besides its output."""
        return 0

    @property
    def clears(self) -> bool:
        """Whether nothing changes beyond the edges."""
        return False

    @property
    def reaches_out(self) -> bool:
        """Whether it may change what lies beyond the edges though nothing did before."""
        return False

    def prepare(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        """Take what it needs of the base.

        Args:
            inputs: what the layer takes there, each (B, ...).
            output: what it gives there.
        """
        return ()

    @abstractmethod
    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        """Compute the change of the output.

        Args:
            inputs: the changes of the layer's inputs, which are not written to.
            known: what was ``prepared``.
        """

    def overwriting(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        """Do the same where nobody needs the inputs any more, which may be written over."""
        return self(inputs, known)


@dataclass(frozen=True)
class Front(Rule):
    """What happens to a pixel alone, wherever it is.

    Its input is no change but both values, (N, 2, C): before and after.
    """

    after: Axes
    function: Callable[[Tensor], Tensor]

    @property
    def clears(self) -> bool:
        return True

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        both = inputs[0].change.unbind(1)
        before, pixel = (self.function(part[:, :, None, None]) for part in both)
        return inputs[0]._replace(change=(pixel - before).permute(0, 2, 3, 1))


@dataclass(frozen=True)
class ActivationRule(Rule):
    """A function of each value; of the values (N, C, h, w) of each pixel, if it is no vector."""

    function: Callable[[Tensor], Tensor]
    beyond: float
    """What the base has beyond the edges.

    Minus infinity, where the function takes that, makes every change there 0.
    """

    @classmethod
    def of(
        cls, after: Axes | None, function: Callable[[Tensor], Tensor], like: Tensor
    ) -> ActivationRule:
        """Try ``function`` on what is ``like`` an input, (1, C, H, W) or (1, F)."""
        finite = bool(function(torch.full_like(like, float("-inf"))).isfinite().all())
        return cls(after, function, float("-inf") if finite else 0.0)

    @property
    def clears(self) -> bool:
        return self.beyond != 0

    def prepare(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        return (_prepare(inputs[0], self.after, self.beyond),)

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        windows = inputs[0]
        if self.after is None:
            before = known[0][windows.owner]
            change = self.function(windows.change + before) - self.function(before)
            return windows._replace(change=change)
        cut = Cut(self.after, self.beyond)(known[0], windows)
        after, before = (part.permute(0, 3, 1, 2) for part in (windows.change + cut, cut))
        change = self.function(after).sub_(self.function(before))
        return windows._replace(change=change.permute(0, 2, 3, 1))


@dataclass(frozen=True)
class Rectifier(Rule):
    """A ReLU. Minus infinity beyond the edges makes every change there 0."""

    @property
    def clears(self) -> bool:
        return True

    def prepare(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        return (_prepare(inputs[0], self.after, float("-inf")),)

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return self._rectify(inputs[0], known[0], torch.add)

    def overwriting(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return self._rectify(inputs[0], known[0], Tensor.add_)

    def _rectify(
        self, windows: Windows, known: Tensor, add: Callable[[Tensor, Tensor], Tensor]
    ) -> Windows:
        if self.after is None:
            cut = known[windows.owner]
        else:
            cut = Cut(self.after, float("-inf"))(known, windows)
        change = add(windows.change, cut).clamp_min_(0).sub_(cut.clamp_min_(0))
        return windows._replace(change=change)


def _prepare(base: Tensor, after: Axes | None, beyond: float) -> Tensor:
    """Give the ``base`` as windows are cut from it, with ``beyond`` around; vectors as they are."""
    return base if after is None else Cut(after, beyond).prepare(base)


@dataclass(frozen=True)
class Scaled(Rule):
    """Each channel times a factor. Something added does not change the change."""

    factor: Tensor | None
    """(C,), or a single number (); ``None`` is 1."""

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        if self.factor is None:
            return inputs[0]
        return inputs[0]._replace(change=inputs[0].change * self.factor)


@dataclass(frozen=True)
class Total(Rule):
    """A weighted sum of branches."""

    spreads: tuple[Spread, ...]
    """None for vectors."""
    weights: tuple[float, ...]

    @classmethod
    def of(cls, branches: Sequence[Axes | None], weights: tuple[float, ...]) -> Total:
        axes = [branch for branch in branches if branch is not None]
        after = Axes(*(join(axis) for axis in zip(*axes, strict=True))) if axes else None
        return cls(after, tuple(Spread(branch, after) for branch in axes) if after else (), weights)

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        ordered = [part.as_ordered_in(inputs[0]) for part in inputs]
        parts = [spread(part) for spread, part in zip(self.spreads, ordered, strict=True)]
        parts = parts or [part.change for part in ordered]
        change = parts[0] * self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            change = change.add_(part, alpha=weight)
        return ordered[0]._replace(change=change)


@dataclass(frozen=True)
class Cleared(Rule):
    """The change beyond the edges set to 0, for what would let it in again."""

    after: Axes

    @property
    def clears(self) -> bool:
        return True

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return inputs[0]._replace(change=clear(inputs[0].change, inputs[0], self.after))


def clear(change: Tensor, windows: Windows, axes: Axes) -> Tensor:
    """Set what lies beyond the edges to 0 in ``change``, which belongs to ``windows``."""
    return change if axes.inside else change.masked_fill(outside(windows, axes).unsqueeze(3), 0.0)


@dataclass(frozen=True)
class MeanRule(Rule):
    """The mean of each channel over ``positions``, as a map of one position or as a vector."""

    positions: int

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        change = inputs[0].change.sum((1, 2), keepdim=self.after is not None) / self.positions
        return inputs[0]._replace(change=change)
