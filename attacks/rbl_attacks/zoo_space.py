"""Where ZOO looks for its noise: every value of the image, or the values of smaller images that are upscaled and added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.search.attack import Neighbours
from robustbench_lite.search.rng import SampleRng

ALMOST = 0.999999
"""Carlini and Wagner's factor: without it values of exactly 0 or 1 have an infinite tanh coordinate and never move."""
MOST_LEVELS = 3


class Pull(NamedTuple):
    """The squared L2 distance as a function of the noise: slope and curvature of each coordinate, (B, D)."""

    slope: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class NoiseSpace:
    """Noise as D numbers a row: the levels one after the other, each (C, edge, edge), upscaled to the image and summed.

    A finer level begins where the coarser ones ended, so to grow is to move on to the next level's coordinates.
    """

    shape: tuple[int, int, int]
    levels: tuple[tuple[int, int], ...]
    """Rows and columns of each level."""
    tanh: bool

    @classmethod
    def create(cls, shape: tuple[int, ...], size: int | None, grows: bool, tanh: bool) -> NoiseSpace:
        channels, height, width = shape
        edges = [max(height, width) if size is None else size]
        while grows and edges[-1] < max(height, width) and len(edges) < MOST_LEVELS:
            edges.append(2 * edges[-1])
        return cls((channels, height, width), tuple((min(e, height), min(e, width)) for e in edges), tanh)

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
        """The images that ``noise`` (B, P, D) makes of ``x`` (B, C, H, W): (B, P, C, H, W), in bounds."""
        added = torch.zeros((), device=x.device)
        for part, (rows, columns) in zip(torch.split(noise, self.counts, 2), self.levels, strict=True):
            small = part.reshape(-1, self.shape[0], rows, columns)  # (B * P, C, rows, columns)
            whole = small if (rows, columns) == self.shape[1:] else F.interpolate(small, self.shape[1:], mode="bilinear")
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
        """``values`` (B, n) for the coordinates ``at``, as far as the bounds of the image let a single one of its values go."""
        if not self.plain:
            return values
        own = x.flatten(1).gather(1, at)
        return torch.maximum(torch.minimum(values, 1 - own), -own)

    def beside(self, x: Tensor, noise: Tensor, at: Tensor, h: float) -> tuple[Tensor, Tensor]:
        """The coordinates ``at`` (B, n) moved by ``h`` up and down, (B, n) each; a bound of the image may shorten a move."""
        own = noise.gather(1, at)
        return self.within(x, at, own + h), self.within(x, at, own - h)

    def around(self, x: Tensor, noise: Tensor, at: Tensor, h: float) -> Tensor:
        """The image as it stands, then with each coordinate moved up, then with each moved down: (B, 2 n + 1, C, H, W)."""
        up, down = self.beside(x, noise, at, h)
        start, at, moved = noise, at.repeat(1, 2), torch.cat([up, down], 1)  # (B, D), (B, 2 n), (B, 2 n)
        if self.separate:  # copies of one image with one value exchanged each: a single pass over their memory
            start, moved = self.image(x, noise.unsqueeze(1)).flatten(1), self._values(x.flatten(1).gather(1, at), moved)
        whole = start.unsqueeze(1).repeat(1, at.shape[1] + 1, 1)  # (B, 2 n + 1, D)
        whole[:, 1:].scatter_(2, at.unsqueeze(2), moved.unsqueeze(2))
        return whole.reshape(*whole.shape[:2], *self.shape) if self.separate else self.image(x, whole)

    def neighbours(self, points: Tensor, at: Tensor) -> Neighbours | None:
        """How the ``points`` (B, 2 n + 1, C, H, W) around the coordinates ``at`` (B, n) lie to the first of them."""
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

    def shuffled(self, rng: SampleRng, number: Tensor, level: Tensor, weight: Tensor | None) -> Tensor:
        """The coordinates of each row's ``level`` (B,) at random, then those of others, (B, D).

        With ``weight`` (B, D) heavier ones tend to come first: an exponential race, the same law as drawing one after the
        other (Efraimidis and Spirakis 2006).
        """
        ranks = rng.uniform(number, (sum(self.counts),))  # (B, D)
        if weight is not None:
            ranks = torch.log1p(-ranks) / weight
        if len(self.levels) > 1:
            owner = torch.repeat_interleave(torch.tensor(self.counts)).to(level.device)  # (D,)
            ranks = ranks.masked_fill(owner != level.clamp(max=len(self.levels) - 1).unsqueeze(1), float("-inf"))
        return ranks.argsort(dim=1, descending=True, stable=True)  # equal draws: the first coordinate first, on any torch

    def parts(self, count: int) -> int:
        """How many moves of ``count`` coordinates one order lasts for."""
        return max(1, self.counts[0] // count)

    def part(self, order: Tensor, number: Tensor, count: int) -> Tensor:
        """The part ``number`` (B,) of each row's ``order`` (B, D), ``count`` coordinates or as many as a level has: (B, n)."""
        count = min(count, self.counts[0])
        return order.gather(1, number.unsqueeze(1) * count + torch.arange(count, device=number.device))

    def weight(self, x: Tensor, noise: Tensor) -> Tensor:
        """How much the image has changed around each coordinate, (B, D); above 0, so that none is shut out."""
        change = (self.image(x, noise.unsqueeze(1)).squeeze(1) - x).abs()  # (B, C, H, W)
        reach = max(self.shape[1:]) // 16
        around = F.max_pool2d(change, 2 * reach + 1, stride=1, padding=reach)
        weight = torch.cat([F.adaptive_max_pool2d(around, level).flatten(1) for level in self.levels], 1)
        return weight + 0.01 * weight.amax(1, keepdim=True) + 1e-12
