"""Where the Boundary attack starts: in noise of several grains, or at images of other classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rbl_attacks.boundary.state import STARTS, BoundaryState, shares
from robustbench_lite.errors import UsageError
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search import SampleRng

PER_CLASS = 20
"""Images of a class to start from."""
ABSENT = -1.0
"""What fills the places of images that a class does not have."""


def collect(passes: Passes, images: Points, seed: int) -> Tensor:
    """Up to ``PER_CLASS`` of the training ``images`` of each class, whatever their order.

    Returns:
        (K, PER_CLASS, C, H, W).
    """
    classes = passes.logits(images.take(slice(0, 1))).shape[1]
    found = images.x.new_full((classes, PER_CLASS, *images.x.shape[1:]), ABSENT)
    rng = SampleRng.create(seed, "fit/boundary", images.sample)
    number = rng.uniform(0, (1,)).squeeze(1)
    for label in range(classes):
        rows = (images.y == label).nonzero().squeeze(1)
        chosen = rows[number[rows].argsort(stable=True)[:PER_CLASS]]
        found[label, : len(chosen)] = images.x[chosen]
    return found


def noise(rng: SampleRng, number: Tensor, count: int, shape: torch.Size) -> Tensor:
    """Uniform noise in grains of 1, 1, 2, 2, 4, 4, ... pixels, (M, count, C, H, W)."""
    points = rng.stream(STARTS).uniform(number, (count, *shape))
    for place in range(count):
        down, across = (torch.arange(n, device=points.device) >> place // 2 for n in shape[1:])
        points[:, place] = points[:, place][..., down.unsqueeze(1), across]
    return points


def other_images(
    rng: SampleRng,
    number: Tensor,
    count: int,
    y: Tensor,
    images: Tensor | None,
) -> Tensor:
    """Images of another class than ``y``.

    Args:
        rng: the generator of each row.
        number: of the draw, (M,).
        count: images a row.
        y: (M,).
        images: what was collected, (K, PER_CLASS, C, H, W).

    Returns:
        (M, count, C, H, W).

    Raises:
        UsageError: nothing was collected.
    """
    if images is None:
        unfitted = "boundary start=images is not fitted yet: evaluate() does it; "
        raise UsageError(unfitted + "elsewhere use start=noise.")
    images = images.to(y.device)
    classes, per_class = images.shape[:2]
    label = torch.arange(classes, device=y.device).repeat_interleave(per_class)
    there = images.flatten(0, 1).flatten(1)[:, 0] != ABSENT  # (K PER_CLASS,)
    usable = there & (label != y.unsqueeze(1))  # (M, K PER_CLASS)
    unit = rng.stream(STARTS).uniform(number, (count,))
    rank = (unit * usable.sum(1, keepdim=True)).floor()  # (M, count)
    # The place at which so many usable ones have gone before.
    place = (usable.cumsum(1).unsqueeze(1) > rank.unsqueeze(2)).to(torch.int8).argmax(2)
    return images.flatten(0, 1)[place].clamp_min(0)


def exchange(state: BoundaryState, starts: Callable[[BoundaryState], Tensor]) -> BoundaryState:
    """Give other points to rows that do not walk yet.

    These are ``starts``, or blends of the image with what succeeded.
    """
    rows = (~state.walks).nonzero().squeeze(1)
    if not len(rows):
        return state
    part = state.select(rows)
    x = part.x.unsqueeze(1)
    share = shares(part.low, state.proposals + 2)[:, 1:, None, None, None]
    blends = torch.lerp(x, part.current.unsqueeze(1), share)
    points = torch.where(part.started.reshape(-1, 1, 1, 1, 1), blends, starts(part))
    reach = (points - x).flatten(2).norm(dim=2)
    return state.replace(
        points=state.points.index_copy(0, rows, points),
        reach=state.reach.index_copy(0, rows, reach),
    )
