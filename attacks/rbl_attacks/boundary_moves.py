"""Where a row of the Boundary attack is, where it starts and which ways it tries: noise of several grains, other images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import State
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.rng import SampleRng

PER_CLASS = 20
"""Images of a class to start from."""
ABSENT = -1.0
"""What fills the places of images that a class does not have."""


@dataclass(frozen=True)
class BoundaryState(State):
    x: Tensor
    y: Tensor
    current: Tensor  # where the row stands: in noise, on the way to the boundary, on the walk
    distance: Tensor  # (B,) of ``current`` from the image
    points: Tensor  # (B, P + 1, C, H, W), what is asked next: P proposals, and the orthogonal move of the last one alone
    reach: Tensor  # (B, P + 1) distances of ``points`` from the image
    stage: Tensor  # (B,) 0 looks for noise that succeeds, 1 to ``bisections`` narrow it down to the boundary, then it walks
    low: Tensor  # (B,) largest share of the way from the image to ``current`` that is known to fail
    asked: Tensor  # (B,) queries so far
    tried: Tensor  # (B,) proposals so far
    orthogonal: Tensor  # (B,) delta of the paper; ``towards`` is its epsilon
    towards: Tensor
    counts: Tensor  # (B, 4) trials and successes of orthogonal moves, then of whole proposals, since the step last changed
    rng: SampleRng


def bank(passes: Passes, images: Points, seed: int) -> Tensor:
    """Up to ``PER_CLASS`` of the training ``images`` of each class, (K, PER_CLASS, C, H, W); which, no order decides."""
    classes = passes.logits(images.take(slice(0, 1))).shape[1]
    found = images.x.new_full((classes, PER_CLASS, *images.x.shape[1:]), ABSENT)
    number = SampleRng.create(seed, "fit/boundary", images.sample).uniform(0, (1,)).squeeze(1)
    for label in range(classes):
        rows = (images.y == label).nonzero().squeeze(1)
        chosen = rows[number[rows].argsort(stable=True)[:PER_CLASS]]
        found[label, : len(chosen)] = images.x[chosen]
    return found


def noise(rng: SampleRng, draw: Tensor, count: int, shape: torch.Size) -> Tensor:
    """Uniform noise in grains of 1, 1, 2, 2, 4, 4, ... pixels, (M, count, C, H, W)."""
    points = rng.uniform(draw, (count, *shape))
    for number in range(count):
        down, across = (torch.arange(n, device=points.device) >> number // 2 for n in shape[1:])
        points[:, number] = points[:, number][..., down.unsqueeze(1), across]
    return points


def waves(rng: SampleRng, draw: Tensor, count: int, grain: Tensor, shape: torch.Size) -> Tensor:
    """Normal noise, (M, count, C, H, W): white in rows of ``grain`` (M,) 0, else drawn in 2^grain pixels and interpolated."""
    sizes = sorted(set(grain.tolist()))
    if len(sizes) == 1:
        return _waves(rng, draw, count, sizes[0], shape)
    out = torch.empty(len(grain), count, *shape, device=grain.device)
    for size in sizes:
        rows = (grain == size).nonzero().squeeze(1)
        out[rows] = _waves(rng.select(rows), draw[rows], count, size, shape)
    return out


def _waves(rng: SampleRng, draw: Tensor, count: int, grain: int, shape: torch.Size) -> Tensor:
    edges = [-(-edge // 2**grain) for edge in shape[1:]]
    coarse = rng.normal(draw, (count, shape[0], *edges))
    smooth = coarse if not grain else F.interpolate(coarse.flatten(0, 1), list(shape[1:]), mode="bilinear")
    return smooth.reshape(len(draw), count, *shape)


def moves(state: BoundaryState, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The proposals of every row (figure 2), from ``noise`` and its opposite (M, P / 2, C, H, W): round the image, then to it.

    Returns them with the orthogonal move of the last one behind them, (M, P + 1, C, H, W), and their distances from the image.
    """
    half, proposals = noise.shape[1], state.points.shape[1] - 1
    away, distance, delta = state.current - state.x, state.distance.unsqueeze(1), state.orthogonal.unsqueeze(1)
    along = (noise * away.unsqueeze(1)).flatten(2).sum(2) / distance.square().clamp_min(1e-12)  # (M, P / 2)
    # The length of what is left of the noise when its part along the way out is taken away, by Pythagoras.
    square = noise.flatten(2).norm(dim=2).square()
    length = (square - (along * distance).square()).clamp_min(square * 1e-6 + 1e-24).sqrt()
    shrink = (1 + delta.square()).rsqrt()
    part = delta * distance / length * shrink
    offset = torch.empty_like(state.points)  # from the image
    torch.mul(noise, _spread(part), out=offset[:, :half])
    torch.neg(offset[:, : proposals - half], out=offset[:, half:-1])
    radial = torch.cat([shrink - part * along, shrink + part * along], 1)[:, :proposals]
    offset[:, :-1].addcmul_(_spread(radial), away.unsqueeze(1))
    offset[:, -1] = offset[:, -2]
    offset.clamp_(-state.x.unsqueeze(1), 1 - state.x.unsqueeze(1))
    radius = offset.flatten(2).norm(dim=2)
    # Clipping moved the point off the sphere: the step ends at (1 - epsilon) of the distance all the same.
    keep = ((1 - state.towards.unsqueeze(1)) * distance / radius.clamp_min(1e-12)).clamp(0, 1)
    keep[:, -1] = 1
    return torch.addcmul(state.x.unsqueeze(1), offset, _spread(keep)), keep * radius


def _spread(number: Tensor) -> Tensor:
    """``number`` (M, P), shaped to broadcast over points (M, P, C, H, W)."""
    return number[..., None, None, None]


def other_images(rng: SampleRng, draw: Tensor, count: int, y: Tensor, images: Tensor | None) -> Tensor:
    """Images of a ``bank`` that are of another class than ``y`` (M,), (M, count, C, H, W)."""
    if images is None:
        raise UsageError("boundary start=images is not fitted yet: evaluate() does it; elsewhere use start=noise.")
    images = images.to(y.device)
    classes, per_class = images.shape[:2]
    label = torch.arange(classes, device=y.device).repeat_interleave(per_class)
    there = images.flatten(0, 1).flatten(1)[:, 0] != ABSENT  # (K PER_CLASS,)
    usable = there & (label != y.unsqueeze(1))  # (M, K PER_CLASS)
    rank = (rng.uniform(draw, (count,)) * usable.sum(1, keepdim=True)).floor()  # (M, count)
    # The place at which so many usable ones have gone before.
    place = (usable.cumsum(1).unsqueeze(1) > rank.unsqueeze(2)).to(torch.int8).argmax(2)
    return images.flatten(0, 1)[place].clamp_min(0)


def shares(low: Tensor, count: int) -> Tensor:
    """Equal parts of the way from the last failure, at ``low`` (B,), to the first success at 1: (B, count)."""
    part = torch.arange(count, device=low.device) / count
    return low.unsqueeze(1) + (1 - low.unsqueeze(1)) * part
