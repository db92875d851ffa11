"""Where a patch lies: rotated, scaled and moved into images, to the pixel within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.patch.outline import MARGIN, Shape, mask_of
from robustbench_lite.errors import UsageError
from robustbench_lite.rows.rng import DOWN, UP, Pinned
from robustbench_lite.search import Rows, SampleRng
from robustbench_lite.threat.norms import largest

TEXELS = 2
"""Texels to a pixel of the patch at full size.

With one, the patch is blurred wherever it does not fall on the pixels.
"""

# What is drawn, in the search and in the fit, whose generators have nothing in common.
PLACEMENTS = Pinned("placements", UP)  # of both
COLOURS = Pinned("colours", DOWN[:1])  # of the search: the first ones of an image's own patch
ORDERS = Pinned("orders", DOWN)  # of the fit: of the images in each epoch


@dataclass(frozen=True)
class Placement(Rows):
    """One placement a row."""

    affine: Tensor
    """From image to texture coordinates, both in [-1, 1], (B, 2, 3)."""
    pixels: Tensor
    """How many pixels the patch covers, (B,) int64."""


def count_pixels(area: float | None, height: int, width: int, allowed: int) -> int:
    """How many pixels a patch of ``area``, a share of the image, covers; ``None``: all ``allowed``.

    Raises:
        UsageError: none, or more than are allowed.
    """
    pixels = allowed if area is None else int(area * height * width + 1e-6)
    if not 1 <= pixels <= allowed:
        raise UsageError(
            f"patch with area={area} covers {pixels} of {height} x {width} pixels, and eps allows "
            f"1 to {allowed}: give --eps {max(pixels, 1)}, or another area."
        )
    return pixels


class Placed(NamedTuple):
    """Patches as the images would show them."""

    colours: Tensor
    """At every pixel, (B, C, H, W)."""
    covered: Tensor
    """The pixels that a patch covers, (B, 1, H, W) bool."""

    def onto(self, x: Tensor) -> Tensor:
        """The images ``x`` (B, C, H, W) with the patches on them."""
        return torch.where(self.covered, self.colours, x)


@dataclass(frozen=True)
class Geometry:
    """A patch of ``pixels`` pixels at full size, and where it may lie in its images.

    These are ``height`` x ``width``. ``rotation`` is in degrees, to either side; ``scale_min`` and
    ``scale_max`` are shares of the full area.
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
        if self.shape == "circle":
            return math.sqrt(self.pixels / math.pi)
        return math.sqrt(self.pixels) / 2

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
                f"A {self.shape} of {self.pixels} pixels is up to {extent:.1f} pixels wide and "
                f"does not fit into images of {self.height} x {self.width}: lower area (or eps), "
                "scale_max or rotation."
            )

    def draw(self, rng: SampleRng, number: int | Tensor) -> Placement:
        """The placement ``number`` (), or (B,), of each row.

        A rotation, a scale, and one of the places that leave the patch inside of the image.
        """
        unit = rng.stream(PLACEMENTS).uniform(number, (4,))  # (B, 4)
        angle = (2 * unit[:, 0] - 1) * math.radians(self.rotation)
        share = self.scale_min + (self.scale_max - self.scale_min) * unit[:, 1]
        half = self.half * share.sqrt()
        cos = angle.cos()
        sin = angle.sin()
        extent = half if self.shape == "circle" else half * (cos.abs() + sin.abs())
        x = extent + (self.width - 2 * extent).clamp_min(0) * unit[:, 2]
        y = extent + (self.height - 2 * extent).clamp_min(0) * unit[:, 3]
        wide = self.width / 2
        high = self.height / 2
        rows = [cos * wide, sin * high, cos * (wide - x) + sin * (high - y)]
        rows += [-sin * wide, cos * high, cos * (high - y) - sin * (wide - x)]
        affine = torch.stack(rows, 1).reshape(-1, 2, 3) / (half * MARGIN).reshape(-1, 1, 1)
        pixels = (self.pixels * share).round().clamp(1, self.pixels).to(torch.int64)
        return Placement(affine, pixels)

    def place(self, texture: Tensor, placement: Placement) -> Placed:
        """``texture`` (B, C, side, side) where ``placement`` says; differentiable in the texture.

        It covers the pixels with the largest value of the mask, as many as the placement says: no
        placement wastes a pixel of the budget, and none exceeds it.
        """
        mask = mask_of(self.shape, self.side, texture.device).expand(len(texture), 1, -1, -1)
        layers = torch.cat([texture, mask], 1)  # (B, C + 1, side, side)
        placed = self.see(layers, placement.affine)
        mask = placed[:, -1].detach().flatten(1)  # (B, H * W)
        first = largest(mask, min(self.pixels, mask.shape[1]))  # (B, pixels)
        kept = torch.arange(first.shape[1], device=mask.device) < placement.pixels.unsqueeze(1)
        covered = torch.zeros_like(mask, dtype=torch.bool).scatter_(1, first, kept)
        return Placed(placed[:, :-1], covered.reshape(-1, 1, self.height, self.width))

    def see(self, layers: Tensor, affine: Tensor) -> Tensor:
        """``layers`` (B, L, side, side) at the pixels of the images, (B, L, H, W)."""
        size = [*layers.shape[:2], self.height, self.width]
        grid = F.affine_grid(affine, size, align_corners=False)
        # Border: beyond the texture the mask stays below that of any pixel of the patch.
        return F.grid_sample(layers, grid, padding_mode="border", align_corners=True)
