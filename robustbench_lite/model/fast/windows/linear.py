"""The linear layers behind a map of windows: its flattened windows, and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.model.fast.windows.pixels import Axes, Windows, by_group, table
from robustbench_lite.model.fast.windows.rules import Rule


@dataclass(frozen=True)
class WindowedLinear(Rule):
    """The linear layer behind the flattened windows."""

    makes_anew: ClassVar[bool] = True
    before: Axes
    matrices: Tensor
    """(places, h w C, K)."""

    @staticmethod
    def entries(weight: Tensor, before: Axes) -> int:
        """Count the numbers that the matrices hold."""
        channels = weight.shape[1] // (before.high.size * before.wide.size)
        return before.high.places * before.wide.places * before.area * channels * len(weight)

    @classmethod
    def of(cls, weight: Tensor, before: Axes) -> WindowedLinear:
        """Cut ``weight`` (K, C H W) into a matrix for each place of a window."""
        high, wide = before
        outputs = len(weight)
        maps = weight.reshape(outputs, -1, high.size, wide.size).permute(2, 3, 1, 0)  # (H, W, C, K)
        padded = F.pad(maps, (0, 0, 0, 0, wide.before, wide.after, high.before, high.after))
        # Windows start at the same places in the padded layer.
        started = padded[high.first + high.before :, wide.first + wide.before :]
        rows = started.unfold(0, high.length, 1)[: high.places]
        windows = rows.unfold(1, wide.length, 1)[:, : wide.places]  # (rows, columns, C, K, h, w)
        ordered = windows.permute(0, 1, 4, 5, 2, 3)
        matrices = ordered.reshape(high.places * wide.places, -1, outputs).contiguous()
        return cls(None, before, matrices)

    @property
    def cost(self) -> int:
        return int(self.matrices[0].numel())

    def __call__(self, inputs: Sequence[Windows], known: tuple[Tensor, ...]) -> Windows:
        high, wide = self.before
        row = table(high.starts)[inputs[0].row] - high.first
        column = table(wide.starts)[inputs[0].column] - wide.first
        windows, products = by_group(inputs[0], row * wide.places + column, self.matrices)
        return windows._replace(change=products)


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
