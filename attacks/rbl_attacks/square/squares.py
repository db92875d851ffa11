"""Where the squares of the Square Attack lie; its moves in Linf."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.threat.model import HIGH, LOW


class SquareWindow(NamedTuple):
    """One square of pixels a row."""

    down: Tensor
    """Rows of pixels below its upper edge, negative above, (B, H, 1) int64."""
    across: Tensor
    """Columns right of its left edge, (B, 1, W) int64."""
    size: Tensor
    """Its edge in pixels, (B, 1, 1) int64."""

    @property
    def inside(self) -> Tensor:
        """Pixels that it covers, (B, 1, H, W) bool."""
        down = (self.down >= 0) & (self.down < self.size)
        across = (self.across >= 0) & (self.across < self.size)
        return (down & across).unsqueeze(1)


def place(unit: Tensor, size: Tensor, shape: torch.Size) -> SquareWindow:
    """Lay squares of ``size`` (B,) into images of ``shape`` (C, H, W), by ``unit`` (B, 2).

    Every place inside the image has its turn, those at the last row and column as well.
    """
    height, width = shape[1:]
    span = torch.stack([height + 1 - size, width + 1 - size], 1)
    corner = torch.minimum((unit * span).long(), span - 1)
    rows = torch.arange(height, device=unit.device).unsqueeze(1)
    columns = torch.arange(width, device=unit.device)
    corner = corner.reshape(-1, 2, 1, 1)
    return SquareWindow(rows - corner[:, 0], columns - corner[:, 1], size.reshape(-1, 1, 1))


def stripes(x: Tensor, unit: Tensor, eps: float) -> Tensor:
    """Start: each column of each channel goes to one end of the ball, by ``unit`` (B, C W)."""
    side = torch.where(unit < 0.5, -eps, eps).reshape(len(x), x.shape[1], 1, x.shape[3])
    return (x + side).clamp_(LOW, HIGH)


def recolour(x: Tensor, x_adv: Tensor, square: SquareWindow, unit: Tensor, eps: float) -> Tensor:
    """Move each channel of the square to one end of the ball, by ``unit`` (B, C).

    A colour that the middle of the square has already is exchanged for its opposite: where squares
    are small, the query would be for nothing.
    """
    side = torch.where(unit < 0.5, -eps, eps)  # (B, C)
    middle = _middle(square, x.shape[3])
    clean, now = (
        part.flatten(2).gather(2, middle.expand(-1, x.shape[1], 1)) for part in (x, x_adv)
    )
    same = ((clean.squeeze(2) + side).clamp_(LOW, HIGH) == now.squeeze(2)).all(1, keepdim=True)
    side = torch.where(same, -side, side)
    moved = (x + side[:, :, None, None]).clamp_(LOW, HIGH)
    return torch.where(square.inside, moved, x_adv)


def _middle(square: SquareWindow, width: int) -> Tensor:
    """Find the pixel in the middle of each square, row times width plus column, (B, 1, 1)."""
    half = square.size // 2
    return (half - square.down[:, :1]) * width + (half - square.across[:, :, :1])
