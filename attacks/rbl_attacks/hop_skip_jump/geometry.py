"""What HopSkipJump does in L2 and in Linf: blends, steps, and how fine it measures."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.search import SampleRng
from robustbench_lite.threat import Norm
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.threat.norms import per_row

GRAINS = (1, 2)
"""Pixels of the edge of the cells that directions are drawn in, iteration by iteration."""
_TINY = 1e-12


def starts(rng: SampleRng, number: Tensor, count: int, shape: torch.Size) -> Tensor:
    """Draw uniform noise in cells of 1, 2, 4, ... pixels in turn, (B, count, C, H, W).

    To many networks white noise is one class, whatever its values are.
    """
    points = rng.stream("starts").uniform(number, (count, *shape))
    depth = max(1, min(shape[1:]).bit_length())
    for place in range(count):
        rows, columns = (_cells(n, place % depth, points.device) for n in shape[1:])
        points[:, place] = points[:, place][..., rows.unsqueeze(1), columns]
    return points


def _cells(edge: int, grain: int, device: torch.device) -> Tensor:
    return (torch.arange(edge, device=device) >> grain) << grain


def directions(rng: SampleRng, number: Tensor, count: int, shape: torch.Size, grain: int) -> Tensor:
    """Draw directions of length 1, then their opposites, (B, count, C, H, W).

    Args:
        rng: the generator of each row.
        number: of the draw, (B,).
        count: directions a row, an even number.
        shape: (C, H, W).
        grain: pixels of the edge of a cell, in which all values are equal.
    """
    edges = [-(-edge // grain) for edge in shape[1:]]
    noise = rng.stream("directions").normal(number, (count // 2, shape[0], *edges))
    if grain > 1:
        rows, columns = (torch.arange(n, device=noise.device) // grain for n in shape[1:])
        noise = noise[..., rows.unsqueeze(1), columns]
    noise = noise / noise.flatten(2).norm(dim=2).clamp_min(_TINY)[:, :, None, None, None]
    return torch.cat([noise, -noise], 1)


def blend(norm: Norm, x: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """Go the part ``share`` (B,) of the way from the image to ``far``: in Linf by clipping."""
    if norm.name == "linf":
        return x + norm.project(far - x, share * norm.size(far - x))
    return torch.lerp(x, far, per_row(share, x))


def leap(norm: Norm, current: Tensor, gradient: Tensor, length: Tensor) -> Tensor:
    """Step by ``length`` (B,) along the gradient: in Linf along its sign."""
    return (current + norm.steepest(gradient) * per_row(length, current)).clamp_(LOW, HIGH)
