"""What each kind of layer makes of the change of one pixel, window by window; ``window_slides`` has
those with a kernel.

Activations look at the base's own values around the pixel; the linear layer behind a flattened map
takes the columns that belong to the window's place. Beyond the edges of a layer a change may be
anything until ``Cleared``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.model.fast.windows.pixels import (
    Axes,
    Cut,
    Spread,
    Windows,
    by_group,
    joined,
    outside,
    table,
)

LARGEST_TABLE = 16_000_000
"""Entries of a layer's matrices, 64 MB: where windows would need more, they have grown too large to
gain anything.
"""


@dataclass(frozen=True)
class Rule(ABC):
    """One layer. ``after`` is where windows lie behind it, ``None`` where its output has no
    places.
    """

    after: Axes | None
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

    def prepared(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        """What it needs of the base, from the layer's inputs (B, ...) and its output there."""
        return ()

    @abstractmethod
    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        """The change of the output from those of the inputs and from what was ``prepared``. Inputs
        are not written to.
        """

    def overwriting(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        """The same where nobody needs the inputs any more, which may be written over."""
        return self(inputs, known)


@dataclass(frozen=True)
class Front(Rule):
    """What happens to a pixel alone, wherever it is. Its input is no change but both values, (N, 2,
    C): before and after.
    """

    after: Axes
    function: Callable[[Tensor], Tensor]

    @property
    def clears(self) -> bool:
        return True

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        before, pixel = (
            self.function(part[:, :, None, None]) for part in inputs[0].change.unbind(1)
        )
        return inputs[0]._replace(change=(pixel - before).permute(0, 2, 3, 1))


@dataclass(frozen=True)
class Activation(Rule):
    """A function of each value; of the values (N, C, h, w) of each pixel, if it is no vector."""

    function: Callable[[Tensor], Tensor]
    beyond: float
    """What the base has beyond the edges: minus infinity, where the function takes that, makes
    every change there 0.
    """

    @classmethod
    def of(
        cls, after: Axes | None, function: Callable[[Tensor], Tensor], like: Tensor
    ) -> Activation:
        """``like``: an input, (1, C, H, W) or (1, F)."""
        finite = bool(function(torch.full_like(like, float("-inf"))).isfinite().all())
        return cls(after, function, float("-inf") if finite else 0.0)

    @property
    def clears(self) -> bool:
        return self.beyond != 0

    def prepared(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        return (
            inputs[0] if self.after is None else Cut(self.after, self.beyond).prepared(inputs[0]),
        )

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        windows = inputs[0]
        if self.after is None:
            before = known[0][windows.owner]
            return windows._replace(
                change=self.function(windows.change + before) - self.function(before)
            )
        before = Cut(self.after, self.beyond)(known[0], windows)
        after, before = (part.permute(0, 3, 1, 2) for part in (windows.change + before, before))
        return windows._replace(
            change=self.function(after).sub_(self.function(before)).permute(0, 2, 3, 1)
        )


@dataclass(frozen=True)
class Rectifier(Rule):
    """A ReLU. Minus infinity beyond the edges makes every change there 0."""

    @property
    def clears(self) -> bool:
        return True

    def prepared(self, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, ...]:
        return (
            inputs[0] if self.after is None else Cut(self.after, float("-inf")).prepared(inputs[0]),
        )

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return self._rectified(inputs[0], known[0], torch.add)

    def overwriting(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return self._rectified(inputs[0], known[0], Tensor.add_)

    def _rectified(
        self, windows: Windows, known: Tensor, add: Callable[[Tensor, Tensor], Tensor]
    ) -> Windows:
        cut = (
            known[windows.owner]
            if self.after is None
            else Cut(self.after, float("-inf"))(known, windows)
        )
        return windows._replace(
            change=add(windows.change, cut).clamp_min_(0).sub_(cut.clamp_min_(0))
        )


@dataclass(frozen=True)
class Scaled(Rule):
    """Something added does not change the change."""

    factor: Tensor | None
    """(C,), or a single number (); ``None`` is 1."""

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return (
            inputs[0]
            if self.factor is None
            else inputs[0]._replace(change=inputs[0].change * self.factor)
        )


@dataclass(frozen=True)
class Total(Rule):
    """A weighted sum of branches."""

    spreads: tuple[Spread, ...]
    """None for vectors."""
    weights: tuple[float, ...]

    @classmethod
    def of(cls, branches: Sequence[Axes | None], weights: tuple[float, ...]) -> Total:
        axes = [branch for branch in branches if branch is not None]
        after = Axes(*(joined(axis) for axis in zip(*axes, strict=True))) if axes else None
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
        return inputs[0]._replace(change=cleared(inputs[0].change, inputs[0], self.after))


def cleared(change: Tensor, windows: Windows, axes: Axes) -> Tensor:
    return change if axes.inside else change.masked_fill(outside(windows, axes).unsqueeze(3), 0.0)


@dataclass(frozen=True)
class Mean(Rule):
    """The mean of each channel over ``positions``, as a map of one position or as a vector."""

    positions: int

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        change = inputs[0].change.sum((1, 2), keepdim=self.after is not None) / self.positions
        return inputs[0]._replace(change=change)


@dataclass(frozen=True)
class WindowedLinear(Rule):
    """The linear layer behind the flattened windows."""

    makes_anew: ClassVar[bool] = True
    before: Axes
    matrices: Tensor
    """(places, h w C, K)."""

    @staticmethod
    def entries(weight: Tensor, before: Axes) -> int:
        """How many numbers the matrices hold."""
        channels = weight.shape[1] // (before.high.size * before.wide.size)
        return before.high.places * before.wide.places * before.area * channels * len(weight)

    @classmethod
    def of(cls, weight: Tensor, before: Axes) -> WindowedLinear:
        """``weight`` (K, C H W)."""
        (high, wide), outputs = before, len(weight)
        weight = weight.reshape(outputs, -1, high.size, wide.size).permute(
            2, 3, 1, 0
        )  # (H, W, C, K)
        padded = F.pad(weight, (0, 0, 0, 0, wide.before, wide.after, high.before, high.after))
        # Windows start at the same places in the padded layer, (rows, columns, C, K, h, w).
        unfolded = padded[high.first + high.before :, wide.first + wide.before :]
        unfolded = unfolded.unfold(0, high.length, 1)[: high.places].unfold(1, wide.length, 1)[
            :, : wide.places
        ]
        ordered = unfolded.permute(0, 1, 4, 5, 2, 3)
        return cls(
            None, before, ordered.reshape(high.places * wide.places, -1, outputs).contiguous()
        )

    @property
    def cost(self) -> int:
        return int(self.matrices[0].numel())

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        (windows,), (high, wide) = inputs, self.before
        row = table(high.starts)[windows.row]
        column = table(wide.starts)[windows.column]
        windows, change = by_group(
            windows, (row - high.first) * wide.places + column - wide.first, self.matrices
        )
        return windows._replace(change=change)


@dataclass(frozen=True)
class VectorLinear(Rule):
    """A linear layer of vectors."""

    makes_anew: ClassVar[bool] = True
    weight: Tensor

    @property
    def cost(self) -> int:
        return int(self.weight.numel())

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        return inputs[0]._replace(change=inputs[0].change @ self.weight.T)
