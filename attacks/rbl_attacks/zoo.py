"""Zeroth order optimisation. Chen et al. 2017, "ZOO: Zeroth order optimization based black-box attacks", arXiv:1708.03999."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.zoo_space import NoiseSpace
from rbl_attacks.zoo_state import ZOOState
from rbl_attacks.zoo_update import STEP, Slopes, adam, differences, newton
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Attack, Query
from robustbench_lite.search.looks import surely_all, surely_none
from robustbench_lite.search.losses import margin_loss
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class ZOO(Attack):
    """Carlini and Wagner's attack without gradients: a few coordinates a step, their slopes from symmetric differences.

    Minimises |x' - x|^2 + c max(log p_y - max log p_j, -confidence); differences of log-probabilities are those of logits.
    The slope of the distance is known, and that of the second term is 0 at a success: neither costs queries. A row leaves a c
    after a tenth of the steps without a gain of 0.01 %. Cost: ``search_steps`` x ``steps`` x (2 ``coordinates`` + 1) forwards.

    Args:
        steps: moves of ``coordinates`` values at each c; the paper's 3000 for MNIST, 1000 for CIFAR-10.
        learning_rate: length of a move in input units, about (Adam).
        initial_const: first c; it grows tenfold until it succeeds and is bisected after that.
        search_steps: values of c.
        confidence: by how much the other class shall lead while c is searched; whatever is nearest is kept all the same.
        update: ``adam``, or ``newton``, which divides the slope by the curvature.
        tanh: search in the space of atanh, which has no bounds (the paper's for CIFAR-10); else values are clipped.
        attack_size: edge of the noise in pixels, upscaled to the image; ``None`` is the image's own. 32 for large images.
        grow_every: steps after which the edge doubles, at most twice; 0 is never.
        importance: draw coordinates by how much the image has changed around them, instead of evenly.
    """

    name: ClassVar[str] = "zoo"
    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    kind: ClassVar[Literal["fixed_eps", "minimal_distance"]] = "minimal_distance"
    paper: ClassVar[str] = "Chen et al. 2017, arXiv:1708.03999"

    steps: int = 3000
    coordinates: int = 128
    learning_rate: float = 0.01
    initial_const: float = 0.01
    search_steps: int = 9
    confidence: float = 0.0
    update: Literal["adam", "newton"] = "adam"
    tanh: bool = False
    attack_size: int | None = None
    grow_every: int = 0
    importance: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.coordinates, self.search_steps, 1 if self.attack_size is None else self.attack_size) < 1:
            raise UsageError("zoo needs steps, coordinates, search_steps and attack_size of at least 1.")
        if not (self.learning_rate > 0 and self.initial_const > 0 and self.confidence >= 0 and self.grow_every >= 0):
            raise UsageError("zoo needs a learning_rate and initial_const above 0; confidence and grow_every are not negative.")
        if self.update not in STEP:
            raise UsageError(f"zoo knows the updates adam and newton, not {self.update!r}.")
        if self.grow_every and self.attack_size is None:
            raise UsageError("zoo can grow reduced noise only: with grow_every give attack_size, such as attack_size=32.")

    def points(self, shape: tuple[int, ...]) -> int:
        return 2 * min(self.coordinates, self._space(shape).counts[0]) + 1

    def progress(self, state: ZOOState) -> Tensor:
        return ((state.search + state.step / (self.steps + 1)) / self.search_steps).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> ZOOState:
        space, zero, count = self._space(x.shape[1:]), torch.zeros(len(x), device=x.device), torch.zeros_like(y)
        noise = torch.zeros(len(x), sum(space.counts), device=x.device)
        state = ZOOState(
            finished=count.bool(), x=x, noise=noise, order=noise.long(), moments=torch.stack([noise] * 3, 1),
            const=zero + self.initial_const, below=zero, above=zero + float("inf"), reached=count.bool(), probing=count.bool(),
            milestone=zero + float("inf"), search=count, step=count.clone(), moves=count.clone(), rng=rng,
        )  # fmt: skip
        return self._shuffled(state)

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        return self._space(shape).separate

    def ask(self, state: ZOOState) -> Query:
        space, at = self._space(state.x.shape[1:]), self._next(state)
        points = space.around(state.x, state.noise, at, STEP[self.update])
        alone, valid = state.probing | (state.step >= self.steps), None  # a row that took its last step has that point judged
        if not surely_none(alone):
            valid = ~alone.unsqueeze(1) | (torch.arange(points.shape[1], device=alone.device) == 0)  # (B, 2 n + 1)
        return Query.scores(points, valid, loss=margin_loss, beside=space.neighbours(points, at))

    def tell(self, state: ZOOState, answer: Answer) -> ZOOState:
        lead = -answer.need_loss()  # (B, 2 n + 1), the margin
        # Where the other class leads by more than is asked the hinge is flat: its slope is 0, and costs no queries.
        flat, last = lead[:, 0] < -self.confidence, state.step >= self.steps
        moves = (flat | ~state.probing) & ~last
        lead = lead.clamp(min=-self.confidence).masked_fill(flat.unsqueeze(1), -self.confidence)
        distance = self._space(state.x.shape[1:]).squared(state.x, state.noise)
        objective = distance + state.const * (lead[:, 0] + self.confidence)  # (B,)
        # Adam starts afresh at the first success, or its momentum overshoots (section 3.3 and the authors' code).
        moments = state.moments.masked_fill((flat & ~state.reached).reshape(-1, 1, 1), 0)
        due = moves & (state.step % max(1, self.steps // 10) == 0) & (state.step > 0)
        over = last | (due & (objective > 0.9999 * state.milestone))
        state = self._moved(state.replace(moments=moments), lead, moves).replace(
            reached=state.reached | flat, probing=flat, milestone=torch.where(due, objective, state.milestone),
            step=state.step + moves, moves=state.moves + moves,
        )  # fmt: skip
        return self._shuffled(self._next_const(state, over))

    def _space(self, shape: tuple[int, ...]) -> NoiseSpace:
        return NoiseSpace.create(tuple(shape), self.attack_size, self.grow_every > 0, self.tanh)

    def _moved(self, state: ZOOState, lead: Tensor, moves: Tensor) -> ZOOState:
        """Rows that move take one step on their next coordinates, projected onto the bounds."""
        at, space, const = self._next(state), self._space(state.x.shape[1:]), state.const.unsqueeze(1)
        own = state.noise.gather(1, at)  # (B, n)
        hinge = differences(lead, own, *space.beside(state.x, state.noise, at, STEP[self.update]))
        pull, bend = (part.gather(1, at) for part in space.pull(state.x, state.noise))
        total, columns = Slopes(pull + const * hinge.slope, bend + const * hinge.curvature), at.unsqueeze(1).expand(-1, 3, -1)
        moments = state.moments.gather(2, columns)  # (B, 3, n)
        move, new = (newton(total), moments) if self.update == "newton" else adam(total.slope, moments)
        value = torch.where(moves.unsqueeze(1), space.within(state.x, at, own - self.learning_rate * move), own)
        new = torch.where(moves.reshape(-1, 1, 1), new, moments)
        return state.replace(noise=state.noise.scatter(1, at, value), moments=state.moments.scatter(2, columns, new))

    def _next_const(self, state: ZOOState, over: Tensor) -> ZOOState:
        """Rows that are ``over`` go on with the next c, from the image and with fresh moments."""
        if surely_none(over):
            return state
        above = torch.where(over & state.reached, torch.minimum(state.above, state.const), state.above)
        below = torch.where(over & ~state.reached, torch.maximum(state.below, state.const), state.below)
        following = torch.where(above.isfinite(), (below + above) / 2, state.const * 10)
        search, moments = state.search + over, state.moments.masked_fill(over.reshape(-1, 1, 1), 0)
        return state.replace(
            above=above, below=below, const=torch.where(over, following, state.const), search=search, moments=moments,
            noise=state.noise.masked_fill(over.unsqueeze(1), 0), reached=state.reached & ~over, probing=state.probing & ~over,
            step=state.step * ~over, milestone=state.milestone.masked_fill(over, float("inf")),
            finished=state.finished | (search >= self.search_steps),
        )  # fmt: skip

    def _parts(self, state: ZOOState) -> int:
        """Moves that one order lasts for. Evenly drawn, almost all coordinates move before one moves again."""
        return 1 if self.importance or self.grow_every else self._space(state.x.shape[1:]).parts(self.coordinates)

    def _next(self, state: ZOOState) -> Tensor:
        """The coordinates of the next move, (B, n)."""
        return self._space(state.x.shape[1:]).part(state.order, state.moves % self._parts(state), self.coordinates)

    def _shuffled(self, state: ZOOState) -> ZOOState:
        """New orders where they are due; elsewhere the same numbers are drawn again."""
        parts, space = self._parts(state), self._space(state.x.shape[1:])
        if surely_all(state.moves % parts > 0):
            return state
        level = state.step // (self.grow_every or self.steps + 1)
        weight = space.weight(state.x, state.noise) if self.importance else None
        return state.replace(order=space.shuffled(state.rng, state.moves // parts, level, weight))
