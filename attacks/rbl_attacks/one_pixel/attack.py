"""One pixel attack.

Su et al. 2019, "One pixel attack for fooling deep neural networks", arXiv:1710.08864.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.one_pixel.candidates import count_listed, draw, list_at, locate, mutate, paint
from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Neighbours,
    Query,
    SampleRng,
    State,
    cross_entropy,
)
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class OnePixelState(State):
    x: Tensor
    candidates: Tensor  # (B, P, pixels, 2 + C), asked next
    parents: Tensor  # the same shape; who survived so far
    fitness: Tensor  # (B, P) of the parents, -inf before the first generation
    step: Tensor  # (B,) queries so far: generations, or parts of the exhaustive list
    rng: SampleRng


@dataclass(frozen=True, kw_only=True)
class OnePixel(Attack[OnePixelState]):
    """Replace a few pixels by the worst that differential evolution finds, seeing scores only.

    DE/rand/1 without crossover, a child against its own parent, one population a sample. A position
    beyond an edge comes back in at the opposite one (clipping would crowd the edges), a colour
    beyond its range is clipped. Cost a sample: ``population`` x ``generations`` forwards at most,
    the first population included; ``exhaustive`` H W 2^C.

    Args:
        pixels: how many may change; ``None`` is eps, the number of pixels that the threat model
            allows.
        population: candidates a generation.
        generations: how many, with the first population.
        search: ``evolution`` (the paper's), or ``exhaustive``: every position in every corner
            colour (each channel 0 or 1). It misses no success among those candidates, but knows
            one pixel only.
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
            known = "evolution and exhaustive"
            raise UsageError(f"one_pixel knows the searches {known}, not {self.search!r}.")
        pixels = 1 if self.pixels is None else self.pixels
        if self.population < 4 or min(self.generations, pixels) < 1:
            # A mutant has three parents besides the candidate that it competes with.
            least = "a population of at least 4, and generations and pixels of at least 1"
            raise UsageError(f"one_pixel needs {least}.")

    def points(self, shape: tuple[int, ...]) -> int:
        return self.population

    def progress(self, state: OnePixelState) -> Tensor:
        return (state.step / self._steps(state.x)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> OnePixelState:
        first = draw(rng, self.population, self._allowed(threat), x.shape[1])
        step = torch.zeros_like(y)
        state = OnePixelState(
            finished=step.bool(),
            x=x,
            candidates=first,
            parents=first.clone(),
            fitness=torch.full(first.shape[:2], float("-inf"), device=x.device),
            step=step,
            rng=rng,
        )
        if self.search == "exhaustive":
            state = state.replace(candidates=self._next(state))
        return state

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        return self._allowed(threat) == 1

    def ask(self, state: OnePixelState) -> Query:
        place = locate(state.candidates, state.x.shape[2:])
        images = paint(state.x, place, state.candidates)
        beside = Neighbours(state.x, place[..., 0]) if place.shape[2] == 1 else None
        if self.search == "evolution":
            return Query.scores(images, loss=cross_entropy, beside=beside)
        listed = self._numbers(state) < count_listed(state.x.shape[1:])
        return Query.labels(images, valid=listed, beside=beside)

    def tell(self, state: OnePixelState, answer: Answer) -> OnePixelState:
        if self.search == "evolution":
            # It rises as p of the true class falls (targeted: as p of the target rises), also where
            # float32 rounds p to 1.
            loss = answer.need_loss()  # (B, P)
            better = loss >= state.fitness
            parents = torch.where(better[..., None, None], state.candidates, state.parents)
            fitness = torch.where(better, loss, state.fitness)
            state = state.replace(parents=parents, fitness=fitness)
        state = state.replace(step=state.step + 1)
        finished = state.finished | (state.step >= self._steps(state.x))
        return state.replace(candidates=self._next(state), finished=finished)

    def _allowed(self, threat: ThreatModel) -> int:
        allowed = 1 if threat.eps is None else int(threat.eps)
        pixels = allowed if self.pixels is None else self.pixels
        if pixels > allowed or pixels < 1:
            wrong = f"one_pixel may change {allowed} pixels (eps), not {pixels}"
            raise UsageError(f"{wrong}: raise --eps or lower pixels.")
        if self.search == "exhaustive" and pixels > 1:
            wrong = f"one_pixel search=exhaustive lists single pixels, not {pixels}"
            raise UsageError(f"{wrong}: set pixels=1.")
        return pixels

    def _steps(self, x: Tensor) -> int:
        if self.search == "evolution":
            return self.generations
        return -(-count_listed(x.shape[1:]) // self.population)

    def _numbers(self, state: OnePixelState) -> Tensor:
        """Places in the exhaustive list that are next, (B, P); beyond its end in the last part."""
        own = torch.arange(self.population, device=state.x.device)
        return state.step.unsqueeze(1) * self.population + own

    def _next(self, state: OnePixelState) -> Tensor:
        """The candidates to ask about, (B, P, pixels, 2 + C)."""
        if self.search == "evolution":
            return mutate(state.rng, state.step, state.parents)
        return list_at(self._numbers(state), state.x.shape[1:])
