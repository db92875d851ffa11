"""The walk of the Boundary attack: which ways it tries (figure 2), and how far it goes at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.boundary.state import WAVES, BoundaryState
from robustbench_lite.search import SampleRng

FACTOR = 1.5
"""By how much a step size changes at once."""
SPHERE_WINDOW = 20
"""Orthogonal moves between two changes of a step size; the paper counts 100.

20 settle five times sooner.
"""
JOINT_WINDOW = 30
"""Whole proposals between two changes, likewise."""


def waves(rng: SampleRng, number: Tensor, count: int, grain: Tensor, shape: torch.Size) -> Tensor:
    """Normal noise, (M, count, C, H, W), white or smooth.

    Args:
        rng: the generator of each row.
        number: of the draw, (M,).
        count: noises a row.
        grain: (M,): in rows of 0 it is white, else drawn in 2^grain pixels and interpolated.
        shape: (C, H, W).
    """
    sizes = sorted(set(grain.tolist()))
    if len(sizes) == 1:
        return _waves_of(rng, number, count, sizes[0], shape)
    out = torch.empty(len(grain), count, *shape, device=grain.device)
    for size in sizes:
        rows = (grain == size).nonzero().squeeze(1)
        out[rows] = _waves_of(rng.select(rows), number[rows], count, size, shape)
    return out


def _waves_of(rng: SampleRng, number: Tensor, count: int, grain: int, shape: torch.Size) -> Tensor:
    edges = [-(-edge // 2**grain) for edge in shape[1:]]
    coarse = rng.stream(WAVES).normal(number, (count, shape[0], *edges))
    smooth = coarse
    if grain:
        smooth = F.interpolate(coarse.flatten(0, 1), list(shape[1:]), mode="bilinear")
    return smooth.reshape(len(number), count, *shape)


class Proposals(NamedTuple):
    """The points that a row tries next, with the orthogonal move of the last one behind them."""

    points: Tensor
    """(M, P + 1, C, H, W)."""
    reach: Tensor
    """Their distances from the image, (M, P + 1)."""


def propose(state: BoundaryState, noise: Tensor) -> Proposals:
    """Go along the sphere around the image, then towards it.

    Args:
        state: where the rows stand.
        noise: half of the ways; the others are their opposites, (M, P / 2, C, H, W).
    """
    half = noise.shape[1]
    proposals = state.proposals
    away = state.current - state.x
    distance = state.distance.unsqueeze(1)
    delta = state.orthogonal.unsqueeze(1)
    along = (noise * away.unsqueeze(1)).flatten(2).sum(2)
    along = along / distance.square().clamp_min(1e-12)  # (M, P / 2)
    # The length of what is left of the noise without its part along the way out, by Pythagoras.
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
    x = state.x.unsqueeze(1)
    offset.clamp_(-x, 1 - x)
    radius = offset.flatten(2).norm(dim=2)
    # Clipping moved the point off the sphere: the step ends at (1 - epsilon) of the distance all
    # the same.
    keep = (1 - state.towards.unsqueeze(1)) * distance / radius.clamp_min(1e-12)
    keep = keep.clamp(0, 1)
    keep[:, -1] = 1
    return Proposals(torch.addcmul(x, offset, _spread(keep)), keep * radius)


def _spread(number: Tensor) -> Tensor:
    """``number`` (M, P), shaped to broadcast over points (M, P, C, H, W)."""
    return number[..., None, None, None]


def walk(state: BoundaryState, success: Tensor) -> BoundaryState:
    """Rows that walk: count, lengthen steps that succeed often, shorten others (section 2.4)."""
    walks = state.walks
    tests = state.tests_orthogonal
    tried = state.tried + walks * state.proposals
    return adapt(state, success, walks, tests).replace(tried=tried)


def adapt(state: BoundaryState, success: Tensor, walks: Tensor, tests: Tensor) -> BoundaryState:
    """Other step sizes where enough trials are counted.

    Args:
        state: before the answer.
        success: of the points, (B, P + 1).
        walks: rows that walk, (B,) bool.
        tests: rows whose last point is an orthogonal move, (B,) bool.
    """
    wins = walks * success[:, :-1].sum(1)
    new = [tests * 1, tests & success[:, -1], walks * state.proposals, wins]
    counts = state.counts + torch.stack(new, 1)
    # Whole numbers: a rate of 7 in 20 does come up, and 0.35 is no float.
    tried, held, tried_both, held_both = counts.unbind(1)
    ready = tried >= SPHERE_WINDOW
    full = tried_both >= JOINT_WINDOW
    longer = (ready & (20 * held > 7 * tried)).float()
    shorter = (ready & (20 * held < 3 * tried)).float()
    both = FACTOR ** (longer - shorter)
    nearer = (full & (20 * held_both > 3 * tried_both)).float()
    farther = (full & (20 * held_both < tried_both)).float()
    towards = FACTOR ** (nearer - farther)
    return state.replace(
        orthogonal=state.orthogonal * both,
        towards=state.towards * both * towards,
        counts=counts * ~torch.stack([ready, ready, full, full], 1),
    )
