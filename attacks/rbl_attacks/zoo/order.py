"""Which coordinates ZOO moves next: all of them in a random order, a part of it at each move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.zoo.space import NoiseSpace
from rbl_attacks.zoo.state import ZOOState
from robustbench_lite.rows.rng import UP, Pinned
from robustbench_lite.search import SampleRng, surely_all

# What is drawn.
ORDERS = Pinned("orders", UP)


@dataclass(frozen=True)
class Turns:
    """Whose turn it is: ``count`` coordinates a move, or as many as a level has."""

    space: NoiseSpace
    count: int
    importance: bool
    """Coordinates where the image has changed come sooner."""
    level_steps: int | None
    """Steps after which the next level has its turn; ``None`` is never."""

    @property
    def _size(self) -> int:
        return min(self.count, self.space.counts[0])

    @property
    def _parts(self) -> int:
        """Moves that one order lasts for; almost all coordinates move before one moves again."""
        if self.importance or self.level_steps:
            return 1
        return max(1, self.space.counts[0] // self.count)

    def next(self, state: ZOOState) -> Tensor:
        """The coordinates of the next move, (B, n)."""
        size = self._size
        part = (state.moves % self._parts).unsqueeze(1)
        place = part * size + torch.arange(size, device=part.device)
        return state.order.gather(1, place)

    def shuffle(self, state: ZOOState) -> ZOOState:
        """Draw new orders where they are due; elsewhere the same numbers are drawn again."""
        if surely_all(state.moves % self._parts > 0):
            return state
        level = state.step // self.level_steps if self.level_steps else state.step * 0
        weight = weigh(self.space, state.x, state.noise) if self.importance else None
        order = shuffle(self.space, state.rng, state.moves // self._parts, level, weight)
        return state.replace(order=order)


def shuffle(
    space: NoiseSpace,
    rng: SampleRng,
    number: Tensor,
    level: Tensor,
    weight: Tensor | None,
) -> Tensor:
    """The coordinates of a level at random, then those of others, (B, D).

    Args:
        space: that of the coordinates.
        rng: the generator of each row.
        number: of the order, (B,).
        level: whose coordinates come first, (B,).
        weight: heavier coordinates tend to come sooner, (B, D): an exponential race, the same law
            as drawing one after the other (Efraimidis and Spirakis 2006).
    """
    ranks = rng.stream(ORDERS).uniform(number, (sum(space.counts),))  # (B, D)
    if weight is not None:
        ranks = torch.log1p(-ranks) / weight
    if len(space.levels) > 1:
        owner = torch.repeat_interleave(torch.tensor(space.counts)).to(level.device)  # (D,)
        level = level.clamp(max=len(space.levels) - 1)
        ranks = ranks.masked_fill(owner != level.unsqueeze(1), float("-inf"))
    # Equal draws: the first coordinate first, on any torch.
    return ranks.argsort(dim=1, descending=True, stable=True)


def weigh(space: NoiseSpace, x: Tensor, noise: Tensor) -> Tensor:
    """How much the image has changed around each coordinate, (B, D).

    It is above 0, so that none is shut out.
    """
    change = (space.image(x, noise.unsqueeze(1)).squeeze(1) - x).abs()  # (B, C, H, W)
    reach = max(space.shape[1:]) // 16
    around = F.max_pool2d(change, 2 * reach + 1, stride=1, padding=reach)
    pooled = [F.adaptive_max_pool2d(around, level).flatten(1) for level in space.levels]
    weight = torch.cat(pooled, 1)
    return weight + 0.01 * weight.amax(1, keepdim=True) + 1e-12
