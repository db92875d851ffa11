"""Where ZOO looks for its noise.

In every value of the image, or in the values of smaller images that are upscaled and added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.search import Neighbours

ALMOST = 0.999999
"""Carlini and Wagner's factor.

Without it values of exactly 0 or 1 have an infinite tanh coordinate and never move.
"""
MOST_LEVELS = 3


class Beside(NamedTuple):
    """Coordinates that are moved up and down, (B, n) each."""

    up: Tensor
    down: Tensor


class Pull(NamedTuple):
    """The squared L2 distance as a function of each coordinate of the noise, (B, D) each."""

    slope: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class NoiseSpace:
    """Noise as D numbers a row: levels one after the other, upscaled to the image and summed.

    A level is (C, edge, edge). A finer one begins where the coarser ones ended, so to grow is to
    move on to the next level's coordinates.
    """

    shape: tuple[int, int, int]
    levels: tuple[tuple[int, int], ...]
    """Rows and columns of each level."""
    tanh: bool

    @classmethod
    def create(
        cls,
        shape: tuple[int, ...],
        size: int | None,
        grows: bool,
        tanh: bool,
    ) -> NoiseSpace:
        """The space for images of ``shape`` (C, H, W), whose coarsest level has edges of ``size``.

        ``None`` is the edge of the image. With ``grows`` there are finer levels as well.
        """
        channels, height, width = shape
        edges = [max(height, width) if size is None else size]
        while grows and edges[-1] < max(height, width) and len(edges) < MOST_LEVELS:
            edges.append(2 * edges[-1])
        levels = tuple((min(edge, height), min(edge, width)) for edge in edges)
        return cls((channels, height, width), levels, tanh)

    @property
    def counts(self) -> list[int]:
        """Coordinates of each level."""
        return [self.shape[0] * rows * columns for rows, columns in self.levels]

    @property
    def separate(self) -> bool:
        """Each coordinate is one value of the image."""
        return self.levels == (self.shape[1:],)

    @property
    def plain(self) -> bool:
        """The noise is simply added to the image."""
        return self.separate and not self.tanh

    def image(self, x: Tensor, noise: Tensor) -> Tensor:
        """The images that ``noise`` (B, P, D) makes of ``x`` (B, C, H, W): (B, P, C, H, W)."""
        added = torch.zeros((), device=x.device)
        levels = zip(torch.split(noise, self.counts, 2), self.levels, strict=True)
        for part, (rows, columns) in levels:
            small = part.reshape(-1, self.shape[0], rows, columns)  # (B * P, C, rows, columns)
            whole = small
            if (rows, columns) != self.shape[1:]:
                whole = F.interpolate(small, self.shape[1:], mode="bilinear")
            added = added + whole.reshape(*noise.shape[:2], *self.shape)
        return self._values(x.unsqueeze(1), added)

    def _values(self, x: Tensor, added: Tensor) -> Tensor:
        """What values ``x`` of the image become when ``added`` is added to them."""
        if self.tanh:
            return (torch.tanh(torch.atanh(ALMOST * (2 * x - 1)) + added) + 1) / 2
        return (x + added).clamp(0, 1)

    def squared(self, x: Tensor, noise: Tensor) -> Tensor:
        """The squared L2 distance of the image that ``noise`` (B, D) makes, (B,)."""
        return (self.image(x, noise.unsqueeze(1)).squeeze(1) - x).square().flatten(1).sum(1)

    def within(self, x: Tensor, at: Tensor, values: Tensor) -> Tensor:
        """``values`` (B, n) for the coordinates ``at``, as far as the bounds of the image allow."""
        if not self.plain:
            return values
        own = x.flatten(1).gather(1, at)
        return torch.maximum(torch.minimum(values, 1 - own), -own)

    def beside(self, x: Tensor, noise: Tensor, at: Tensor, h: float) -> Beside:
        """The coordinates ``at`` (B, n) moved by ``h``; a bound of the image may shorten a move."""
        own = noise.gather(1, at)
        return Beside(self.within(x, at, own + h), self.within(x, at, own - h))

    def around(self, x: Tensor, noise: Tensor, at: Tensor, h: float) -> Tensor:
        """The image, each coordinate moved up, then each moved down: (B, 2 n + 1, C, H, W)."""
        start = noise  # (B, D)
        moved = torch.cat(self.beside(x, noise, at, h), 1)  # (B, 2 n)
        at = at.repeat(1, 2)  # (B, 2 n)
        if self.separate:  # copies of one image with one value exchanged each: one pass over memory
            start = self.image(x, noise.unsqueeze(1)).flatten(1)
            moved = self._values(x.flatten(1).gather(1, at), moved)
        whole = start.unsqueeze(1).repeat(1, at.shape[1] + 1, 1)  # (B, 2 n + 1, D)
        whole[:, 1:].scatter_(2, at.unsqueeze(2), moved.unsqueeze(2))
        if self.separate:
            return whole.reshape(*whole.shape[:2], *self.shape)
        return self.image(x, whole)

    def neighbours(self, points: Tensor, at: Tensor) -> Neighbours | None:
        """How ``points`` (B, 2 n + 1, C, H, W) around ``at`` (B, n) lie to the first of them."""
        if not self.separate:
            return None
        pixel = at % (self.shape[1] * self.shape[2])
        return Neighbours(points[:, 0], torch.cat([pixel[:, :1], pixel, pixel], 1))

    def pull(self, x: Tensor, noise: Tensor) -> Pull:
        """Known without a query. Where coordinates share pixels the curvature is an upper bound."""
        if self.plain:
            return Pull(2 * noise, torch.full_like(noise, 2.0))
        with torch.enable_grad():
            free = noise.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.squared(x, free).sum(), free, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), free)
        return Pull(slope.detach(), curvature)
