"""Where a patch lies: rotated, scaled and moved into images, to the pixel within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.errors import UsageError
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.search.rows import Rows
from robustbench_lite.threat.norms import largest

Shape = Literal["circle", "square"]
MARGIN = 1.25
"""Half the width of the texture in half widths of the patch: beyond its edge there is colour too, for pixels on the edge."""
TEXELS = 2
"""Texels to a pixel of the patch at full size: with one, the patch is blurred wherever it does not fall on the pixels."""


@dataclass(frozen=True)
class Placement(Rows):
    """One placement a row."""

    affine: Tensor
    """From image to texture coordinates, both in [-1, 1], (B, 2, 3)."""
    pixels: Tensor
    """How many pixels the patch covers, (B,) int64."""


@dataclass(frozen=True)
class Geometry:
    """A patch of ``pixels`` pixels at full size, and where it may lie in images of ``height`` x ``width``.

    ``rotation`` in degrees, to either side; ``scale_min`` and ``scale_max`` are shares of the full area.
    """

    shape: Shape
    pixels: int
    height: int
    width: int
    rotation: float
    scale_min: float
    scale_max: float

    @property
    def half(self) -> float:
        """Half the width at full size, in pixels: the radius of the circle."""
        return math.sqrt(self.pixels / math.pi) if self.shape == "circle" else math.sqrt(self.pixels) / 2

    @property
    def side(self) -> int:
        """Width of the texture, in texels."""
        return math.ceil(2 * MARGIN * self.half * TEXELS) + 1

    def check(self) -> None:
        """Raise ``UsageError`` unless the patch fits into the image however it is turned."""
        turned = math.radians(min(self.rotation, 45.0)) if self.shape == "square" else 0.0
        extent = 2 * self.half * math.sqrt(self.scale_max) * (math.cos(turned) + math.sin(turned))
        if extent > min(self.height, self.width) + 1e-6:
            raise UsageError(
                f"A {self.shape} of {self.pixels} pixels is up to {extent:.1f} pixels wide and does not fit into images of "
                f"{self.height} x {self.width}: lower area (or eps), scale_max or rotation."
            )

    def draw(self, rng: SampleRng, draw: int | Tensor) -> Placement:
        """A placement a row: rotation, scale, and of the places that leave the patch inside of the image one."""
        unit = rng.uniform(draw, (4,))  # (B, 4)
        angle = (2 * unit[:, 0] - 1) * math.radians(self.rotation)
        share = self.scale_min + (self.scale_max - self.scale_min) * unit[:, 1]
        half, cos, sin = self.half * share.sqrt(), angle.cos(), angle.sin()
        extent = half if self.shape == "circle" else half * (cos.abs() + sin.abs())
        x = extent + (self.width - 2 * extent).clamp_min(0) * unit[:, 2]
        y = extent + (self.height - 2 * extent).clamp_min(0) * unit[:, 3]
        wide, high = self.width / 2, self.height / 2
        rows = [cos * wide, sin * high, cos * (wide - x) + sin * (high - y)]
        rows += [-sin * wide, cos * high, cos * (high - y) - sin * (wide - x)]
        affine = torch.stack(rows, 1).reshape(-1, 2, 3) / (half * MARGIN).reshape(-1, 1, 1)
        return Placement(affine, (self.pixels * share).round().clamp(1, self.pixels).to(torch.int64))

    def place(self, texture: Tensor, placement: Placement) -> tuple[Tensor, Tensor]:
        """The patch as the images would show it.

        ``texture`` is (B, C, side, side). Returns its colours at every pixel, (B, C, H, W), differentiable in the texture, and
        the pixels that it covers, (B, 1, H, W) bool: those with the largest value of the mask, as many as the placement says.
        So no placement wastes a pixel of the budget, and none exceeds it.
        """
        layers = torch.cat([texture, self._mask(texture.device).expand(len(texture), 1, -1, -1)], 1)
        placed = self.seen(layers, placement.affine)
        colours, mask = placed[:, :-1], placed[:, -1].detach().flatten(1)
        first = largest(mask, min(self.pixels, mask.shape[1]))  # (B, pixels)
        kept = torch.arange(first.shape[1], device=mask.device) < placement.pixels.unsqueeze(1)
        covered = torch.zeros_like(mask, dtype=torch.bool).scatter_(1, first, kept)
        return colours, covered.reshape(-1, 1, self.height, self.width)

    def seen(self, layers: Tensor, affine: Tensor) -> Tensor:
        """``layers`` (B, L, side, side) at the pixels of the images, (B, L, H, W)."""
        grid = F.affine_grid(affine, [*layers.shape[:2], self.height, self.width], align_corners=False)
        # Border: beyond the texture the mask stays below that of any pixel of the patch.
        return F.grid_sample(layers, grid, mode="bilinear", padding_mode="border", align_corners=True)

    def _mask(self, device: torch.device) -> Tensor:
        """1 in the middle, falling to 0.5 at the edge of the patch and on beyond it, (1, 1, side, side)."""
        return (1 - _distance(self.shape, self.side, device) / 2).reshape(1, 1, self.side, self.side)


def shown(texture: Tensor, shape: Shape) -> Tensor:
    """The patch upright, from its ``texture`` (C, side, side), and how opaque it is: (C + 1, side, side)."""
    inside = _distance(shape, texture.shape[-1], texture.device) <= 1
    return torch.cat([texture, inside.to(texture.dtype).unsqueeze(0)])


def _distance(shape: Shape, side: int, device: torch.device) -> Tensor:
    """From the middle of a texture to each of its texels, (side, side); 1 at the edge of the patch."""
    axis = torch.linspace(-MARGIN, MARGIN, side, device=device)
    down, across = axis.unsqueeze(1), axis.unsqueeze(0)
    return torch.hypot(down, across) if shape == "circle" else torch.maximum(down.abs(), across.abs())
