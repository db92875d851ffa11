"""The candidates of the one pixel attack: which there are, and the images that they make.

A candidate is ``pixels`` rows of 2 + C numbers: row and column as shares of the image, the colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_lite.rows.rng import DOWN, UP, Pinned
from robustbench_lite.search import SampleRng

# What is drawn.
POSITIONS = Pinned("positions", DOWN[:1])  # of the first population
COLOURS = Pinned("colours", DOWN[1:2])  # likewise
PARENTS = Pinned("parents", UP)  # of the generation with that number

SCALE = 0.5
"""F of the paper: how much of the difference of two others a mutant takes."""


def draw(rng: SampleRng, count: int, pixels: int, channels: int) -> Tensor:
    """The first population, (B, count, pixels, 2 + channels)."""
    position = rng.stream(POSITIONS).uniform(0, (count, pixels, 2))
    colour = rng.stream(COLOURS).normal(0, (count, pixels, channels))
    colour = (colour * (127 / 255) + 128 / 255).clamp_(0, 1)
    return torch.cat([position, colour], 3)


def mutate(rng: SampleRng, generation: Tensor, parents: Tensor) -> Tensor:
    """One child a parent: a third candidate plus ``SCALE`` times the difference of two others.

    Args:
        rng: the generator of each row.
        generation: its number, (B,).
        parents: (B, P, pixels, 2 + C).
    """
    size = parents.shape[1]
    # Distinct offsets from the parent: each is drawn among those still free and moved past the ones
    # that are taken.
    unit = rng.stream(PARENTS).uniform(generation, (3, size))  # (B, 3, P)
    first, second, third = ((unit[:, k] * (size - 1 - k)).long() for k in range(3))
    second = second + (second >= first)
    low = torch.minimum(first, second)
    high = torch.maximum(first, second)
    third = third + (third >= low)
    third = third + (third >= high)
    own = torch.arange(size, device=unit.device)
    row = torch.arange(len(unit), device=unit.device).unsqueeze(1)
    a, b, c = (parents[row, (own + 1 + offset) % size] for offset in (first, second, third))
    child = a + SCALE * (b - c)
    return torch.cat([child[..., :2] % 1.0, child[..., 2:].clamp(0, 1)], -1)


def count_listed(shape: Sequence[int]) -> int:
    """How many candidates ``list_at`` knows for images of ``shape`` (C, H, W)."""
    channels, height, width = shape
    return int(height * width * 2**channels)


def list_at(number: Tensor, shape: Sequence[int]) -> Tensor:
    """The candidates of one pixel at the places ``number`` (B, P) of the exhaustive list.

    It goes position by position, all corner colours of one before the next. Beyond its end it
    begins anew.

    Returns:
        (B, P, 1, 2 + C).
    """
    channels, height, width = shape
    corner = number % 2**channels
    position = (number // 2**channels) % (height * width)
    bits = (corner.unsqueeze(-1) >> torch.arange(channels, device=number.device)) & 1  # (B, P, C)
    # The middle of the pixel: rounding cannot move it to the neighbour.
    down = (position // width + 0.5) / height
    across = (position % width + 0.5) / width
    place = torch.stack([down, across], -1)
    return torch.cat([place, bits.to(place.dtype)], -1).unsqueeze(2)


def locate(candidates: Tensor, size: Sequence[int]) -> Tensor:
    """Which pixels of an image of ``size`` (H, W) change, (B, P, pixels) int64.

    Args:
        candidates: (B, P, pixels, 2 + C).
        size: of the images.
    """
    height, width = size
    row = (candidates[..., 0] * height).long().clamp(max=height - 1)
    column = (candidates[..., 1] * width).long().clamp(max=width - 1)
    return row * width + column


def paint(x: Tensor, place: Tensor, candidates: Tensor) -> Tensor:
    """A copy of each image for each of its candidates, changed there: (B, P, C, H, W).

    Args:
        x: the images, (B, C, H, W).
        place: the pixels that change, (B, P, pixels).
        candidates: (B, P, pixels, 2 + C).
    """
    images = x.flatten(2).unsqueeze(1).repeat(1, candidates.shape[1], 1, 1)  # (B, P, C, H * W)
    place = place[..., None, None].expand(-1, -1, -1, x.shape[1], 1)  # (B, P, pixels, C, 1)
    # One after the other: of two pixels at one place the later wins, on every device.
    for pixel in range(candidates.shape[2]):
        images.scatter_(3, place[:, :, pixel], candidates[:, :, pixel, 2:].unsqueeze(-1))
    return images.reshape(*images.shape[:3], *x.shape[2:])
