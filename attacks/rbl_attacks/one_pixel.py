"""One pixel attack. Su et al. 2019, "One pixel attack for fooling deep neural networks", arXiv:1710.08864."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Attack, Kind, Neighbours, Query, State
from robustbench_lite.search.losses import cross_entropy
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel

SCALE = 0.5
"""F of the paper: how much of the difference of two others a mutant takes."""
POSITIONS, COLOURS = -1, -2
"""Draws of the first population; a generation's own number, from 0, draws its parents."""


@dataclass(frozen=True)
class OnePixelState(State):
    x: Tensor
    candidates: Tensor  # (B, P, pixels, 2 + C), asked next: row and column as shares of the image, then the colour
    parents: Tensor  # the same shape; who survived so far
    fitness: Tensor  # (B, P) of the parents, -inf before the first generation
    step: Tensor  # (B,) queries so far: generations, or parts of the exhaustive list
    rng: SampleRng


@dataclass(frozen=True, kw_only=True)
class OnePixel(Attack[OnePixelState]):
    """Replace a few pixels by whatever differential evolution finds to be the worst for the model, seeing scores only.

    DE/rand/1 without crossover, a child against its own parent, one population a sample. A position beyond an edge comes back
    in at the opposite one (clipping would crowd the edges), a colour beyond its range is clipped. Cost a sample:
    ``population`` x ``generations`` forwards at most, the first population included; ``exhaustive`` H W 2^C.

    Args:
        pixels: how many may change; ``None`` is eps, the number of pixels that the threat model allows.
        population: candidates a generation.
        generations: how many, with the first population.
        search: ``evolution`` (the paper's), or ``exhaustive``: every position in every corner colour (each channel 0 or 1). It
            misses no success among those candidates, but knows one pixel only.
    """

    name: ClassVar[str] = "one_pixel"
    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    kind: ClassVar[Kind] = "fixed_eps"
    paper: ClassVar[str] = "Su et al. 2019, arXiv:1710.08864"

    pixels: int | None = None
    population: int = 400
    generations: int = 100
    search: Literal["evolution", "exhaustive"] = "evolution"

    def __post_init__(self) -> None:
        if self.search not in ("evolution", "exhaustive"):
            raise UsageError(f"one_pixel knows the searches evolution and exhaustive, not {self.search!r}.")
        if self.population < 4 or self.generations < 1 or (self.pixels is not None and self.pixels < 1):
            # A mutant has three parents besides the candidate that it competes with.
            raise UsageError("one_pixel needs a population of at least 4, and generations and pixels of at least 1.")

    def points(self, shape: tuple[int, ...]) -> int:
        return self.population

    def progress(self, state: OnePixelState) -> Tensor:
        return (state.step / self._steps(state.x)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> OnePixelState:
        pixels = self._allowed(threat)
        shape = (self.population, pixels)
        position = rng.uniform(POSITIONS, (*shape, 2))
        colour = (rng.normal(COLOURS, (*shape, x.shape[1])) * (127 / 255) + 128 / 255).clamp_(0, 1)
        first = torch.cat([position, colour], 3)  # (B, P, pixels, 2 + C)
        step = torch.zeros_like(y)
        state = OnePixelState(
            finished=step.bool(), x=x, candidates=first, parents=first.clone(), step=step, rng=rng,
            fitness=torch.full(first.shape[:2], float("-inf"), device=x.device),
        )  # fmt: skip
        return state if self.search == "evolution" else state.replace(candidates=self._listed(state))

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        return self._allowed(threat) == 1

    def ask(self, state: OnePixelState) -> Query:
        place = places(state.candidates, state.x.shape[2:])
        images = painted(state.x, place, state.candidates)
        beside = Neighbours(state.x, place[..., 0]) if place.shape[2] == 1 else None
        if self.search == "evolution":
            return Query.scores(images, loss=cross_entropy, beside=beside)
        return Query.labels(images, valid=self._numbers(state) < self._space(state.x), beside=beside)

    def tell(self, state: OnePixelState, answer: Answer) -> OnePixelState:
        if self.search == "evolution":
            # It rises as p of the true class falls (targeted: as p of the target rises), also where float32 rounds p to 1.
            loss = answer.need_loss()  # (B, P)
            better = loss >= state.fitness
            parents = torch.where(better[..., None, None], state.candidates, state.parents)
            state = state.replace(parents=parents, fitness=torch.where(better, loss, state.fitness))
        state = state.replace(step=state.step + 1)
        candidates = self._mutants(state) if self.search == "evolution" else self._listed(state)
        return state.replace(candidates=candidates, finished=state.finished | (state.step >= self._steps(state.x)))

    def _allowed(self, threat: ThreatModel) -> int:
        allowed = 1 if threat.eps is None else int(threat.eps)
        pixels = allowed if self.pixels is None else self.pixels
        if pixels > allowed or pixels < 1:
            raise UsageError(f"one_pixel may change {allowed} pixels (eps), not {pixels}: raise --eps or lower pixels.")
        if self.search == "exhaustive" and pixels > 1:
            raise UsageError(f"one_pixel search=exhaustive lists single pixels, not {pixels}: set pixels=1.")
        return pixels

    def _mutants(self, state: OnePixelState) -> Tensor:
        """One child a parent, from three others: the first plus ``SCALE`` times the difference of the other two."""
        size = self.population
        # Distinct offsets from the parent: each is drawn among those still free and moved past the ones that are taken.
        unit = state.rng.uniform(state.step, (3, size))  # (B, 3, P)
        first, second, third = ((unit[:, k] * (size - 1 - k)).long() for k in range(3))
        second = second + (second >= first)
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        third = third + (third >= low)
        third = third + (third >= high)
        own = torch.arange(size, device=unit.device)
        row = torch.arange(len(unit), device=unit.device).unsqueeze(1)
        a, b, c = (state.parents[row, (own + 1 + offset) % size] for offset in (first, second, third))
        child = a + SCALE * (b - c)
        return torch.cat([child[..., :2] % 1.0, child[..., 2:].clamp(0, 1)], -1)

    def _steps(self, x: Tensor) -> int:
        return self.generations if self.search == "evolution" else -(-self._space(x) // self.population)

    def _space(self, x: Tensor) -> int:
        """How many candidates the exhaustive list has."""
        channels, height, width = x.shape[1:]
        return int(height * width * 2**channels)

    def _numbers(self, state: OnePixelState) -> Tensor:
        """Places in the exhaustive list that are next, (B, P); beyond its end in the last part."""
        return state.step.unsqueeze(1) * self.population + torch.arange(self.population, device=state.x.device)

    def _listed(self, state: OnePixelState) -> Tensor:
        """The candidates at those places: position by position, all corner colours of one before the next."""
        channels, height, width = state.x.shape[1:]
        number = self._numbers(state)
        corner, position = number % 2**channels, (number // 2**channels) % (height * width)
        bits = (corner.unsqueeze(-1) >> torch.arange(channels, device=number.device)) & 1  # (B, P, C)
        # The middle of the pixel: rounding cannot move it to the neighbour.
        place = torch.stack([(position // width + 0.5) / height, (position % width + 0.5) / width], -1)
        return torch.cat([place, bits.to(place.dtype)], -1).unsqueeze(2)  # (B, P, 1, 2 + C)


def places(candidates: Tensor, size: Sequence[int]) -> Tensor:
    """Which pixels of an image of ``size`` (H, W) the ``candidates`` (B, P, pixels, 2 + C) change, (B, P, pixels) int64."""
    height, width = size
    row = (candidates[..., 0] * height).long().clamp(max=height - 1)
    column = (candidates[..., 1] * width).long().clamp(max=width - 1)
    return row * width + column


def painted(x: Tensor, place: Tensor, candidates: Tensor) -> Tensor:
    """A copy of the image ``x`` (B, C, H, W) for each of ``candidates``, changed at ``place``: (B, P, C, H, W)."""
    images = x.flatten(2).unsqueeze(1).repeat(1, candidates.shape[1], 1, 1)  # (B, P, C, H * W)
    place = place[..., None, None].expand(-1, -1, -1, x.shape[1], 1)  # (B, P, pixels, C, 1)
    # One after the other: of two pixels at one place the later wins, on every device.
    for pixel in range(candidates.shape[2]):
        images.scatter_(3, place[:, :, pixel], candidates[:, :, pixel, 2:].unsqueeze(-1))
    return images.reshape(*images.shape[:3], *x.shape[2:])
