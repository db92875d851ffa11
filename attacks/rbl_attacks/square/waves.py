"""The moves of the Square Attack in L2 and L1: windows of two opposite bumps (section 3.3).

A proposal takes what one window holds of the norm to another one. L1 after Croce and Hein 2021,
"Mind the box", arXiv:2103.01208: steeper bumps, the same moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rbl_attacks.square.squares import SquareWindow
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import per_row

TILES = 5
"""Tiles of the start along the shorter edge of the image."""
FILLS = 2
"""How often a change is scaled to the ball and clipped: what clipping takes is spread anew."""
_TINY = 1e-12


def bumps(square: SquareWindow, turned: Tensor, power: int) -> Tensor:
    """Draw two bumps of opposite sign side by side in each square, (B, H, W); 0 outside.

    A bump falls in square rings around its middle: ring r is the sum of 1 / k^(4 / power) over k >
    r.

    Args:
        square: where.
        turned: which are side by side, not one above the other, (B,) bool.
        power: of the norm, 1 or 2.
    """
    down, across, size = square
    turned = turned.reshape(-1, 1, 1)
    along = torch.where(turned, across, down)  # (B, H, W)
    beside = torch.where(turned, down, across)
    half = size // 2
    upper = along < half
    middle = torch.where(upper, half // 2, half + (size - half) // 2)
    ring = torch.maximum((along - middle).abs_(), (beside - half).abs_())
    count = max(square.down.shape[1], square.across.shape[2]) // 2 + 2
    steps = torch.arange(1, count, device=size.device) ** (-4.0 / power)
    fallen = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    # Outside of the square rings are larger than any inside: they are cut off.
    height = fallen[half + 1] - fallen[torch.minimum(ring, half + 1)]
    height = torch.where(upper, height, -height)
    return height.masked_fill_(~square.inside.squeeze(1), 0)


def tiles(x: Tensor, unit: Tensor, eps: float, power: int) -> Tensor:
    """Start: the image is tiled with bumps, whose signs are by ``unit`` (B, C, tiles, tiles)."""
    height, width = x.shape[2:]
    edge = tile_edge(x.shape[1:])
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    size = torch.full((1, 1, 1), edge, device=x.device)
    tile = SquareWindow((rows % edge).reshape(1, -1, 1), (columns % edge).reshape(1, 1, -1), size)
    sign = torch.where(unit < 0.5, -1.0, 1.0)[:, :, (rows // edge).unsqueeze(1), columns // edge]
    pattern = bumps(tile, torch.zeros(1, dtype=torch.bool, device=x.device), power)
    return fill(x, sign * pattern.unsqueeze(1), eps, power)


def tile_edge(shape: torch.Size) -> int:
    """Say how large the tiles of the start are, in pixels."""
    return max(1, min(shape[1:]) // TILES)


def shift(
    x: Tensor,
    x_adv: Tensor,
    windows: tuple[SquareWindow, SquareWindow],
    unit: Tensor,
    eps: float,
    power: int,
) -> Tensor:
    """Take the norm in the second window to the first, which gets bumps on top of what it has.

    Args:
        x: clean images.
        x_adv: where the rows are.
        windows: the one that gains, and the one that is emptied.
        unit: which way the bumps lie, then a sign a channel, (B, 1 + C).
        eps: of the ball.
        power: of the norm, 1 or 2.
    """
    delta = x_adv - x
    gains, loses = (window.inside for window in windows)
    mass = _mass(delta, power)
    held = (mass * gains).sum((2, 3), keepdim=True)  # (B, C, 1, 1)
    moved = (mass * (gains | loses)).sum((2, 3), keepdim=True)
    spare = (eps**power - mass.sum((1, 2, 3), keepdim=True)).clamp_min_(0) / x.shape[1]
    bump = bumps(windows[0], unit[:, 0] < 0.5, power).unsqueeze(1)
    bump = bump / _root(_mass(bump, power).sum((2, 3), keepdim=True), power)
    sign = torch.where(unit[:, 1:] < 0.5, -1.0, 1.0)[:, :, None, None]
    own = delta * gains / _root(held, power)
    fresh = torch.addcmul(own, bump, sign)
    fresh *= _root(moved + spare, power) / _root(_mass(fresh, power).sum((2, 3), True), power)
    rest = delta.masked_fill_(gains | loses, 0)
    return fill(x, rest.add_(fresh), eps, power)


def fill(x: Tensor, delta: Tensor, eps: float, power: int) -> Tensor:
    """Scale ``delta`` so that ``x`` plus it is on the sphere, or as near as the bounds let it."""
    for _ in range(FILLS):
        size = _root(_mass(delta, power).flatten(1).sum(1), power)
        x_adv = torch.addcmul(x, delta, per_row(eps / size, x)).clamp_(LOW, HIGH)
        delta = x_adv - x
    return x_adv


def _mass(delta: Tensor, power: int) -> Tensor:
    return delta.square() if power == 2 else delta.abs()


def _root(mass: Tensor, power: int) -> Tensor:
    return (mass.sqrt() if power == 2 else mass).clamp_min(_TINY)
