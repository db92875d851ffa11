"""Zeroth order optimisation.

Chen et al. 2017, "ZOO: Zeroth order optimization based black-box attacks", arXiv:1708.03999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.zoo.order import Turns
from rbl_attacks.zoo.space import NoiseSpace
from rbl_attacks.zoo.state import ZOOState
from rbl_attacks.zoo.update import STEP, Update, descend
from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Query,
    SampleRng,
    margin_loss,
    surely_none,
)
from robustbench_lite.threat import ThreatModel

PROGRESS = 0.9999
"""A c is left whose objective has not fallen below this share within a tenth of the steps."""


@dataclass(frozen=True, kw_only=True)
class ZOO(Attack[ZOOState]):
    """Carlini and Wagner's attack without gradients, by symmetric differences, a few values a step.

    Minimises |x' - x|^2 + c max(log p_y - max log p_j, -confidence); differences of
    log-probabilities are those of logits. The slope of the distance is known, and that of the
    second term is 0 at a success: neither costs queries. A row leaves a c after a tenth of the
    steps without a gain of 0.01 %. Cost: ``search_steps`` x ``steps`` x (2 ``coordinates`` + 1)
    forwards.

    Args:
        steps: moves of ``coordinates`` values at each c; the paper's 3000 for MNIST, 1000 for
            CIFAR-10.
        learning_rate: length of a move in input units, about (Adam).
        initial_const: first c; it grows tenfold until it succeeds and is bisected after that.
        search_steps: values of c.
        confidence: by how much the other class shall lead while c is searched; whatever is nearest
            is kept all the same.
        update: ``adam``, or ``newton``, which divides the slope by the curvature.
        tanh: search in the space of atanh, which has no bounds (the paper's for CIFAR-10); else
            values are clipped.
        attack_size: edge of the noise in pixels, upscaled to the image; ``None`` is the image's
            own. 32 for large images.
        grow_every: steps after which the edge doubles, at most twice; 0 is never.
        importance: draw coordinates by how much the image has changed around them, instead of
            evenly.
    """

    name: ClassVar[str] = "zoo"
    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    kind: ClassVar[Kind] = "minimal_distance"
    paper: ClassVar[str] = "Chen et al. 2017, arXiv:1708.03999"

    steps: int = 3000
    coordinates: int = 128
    learning_rate: float = 0.01
    initial_const: float = 0.01
    search_steps: int = 9
    confidence: float = 0.0
    update: Update = "adam"
    tanh: bool = False
    attack_size: int | None = None
    grow_every: int = 0
    importance: bool = False

    def __post_init__(self) -> None:
        size = 1 if self.attack_size is None else self.attack_size
        if min(self.steps, self.coordinates, self.search_steps, size) < 1:
            counts = "steps, coordinates, search_steps and attack_size"
            raise UsageError(f"zoo needs {counts} of at least 1.")
        if not (self.learning_rate > 0 and self.initial_const > 0):
            raise UsageError("zoo needs a learning_rate and initial_const above 0.")
        if not (self.confidence >= 0 and self.grow_every >= 0):
            raise UsageError("zoo needs a confidence and grow_every of at least 0.")
        if self.update not in STEP:
            raise UsageError(f"zoo knows the updates adam and newton, not {self.update!r}.")
        if self.grow_every and self.attack_size is None:
            grow = "zoo can grow reduced noise only: "
            raise UsageError(grow + "with grow_every give attack_size, such as attack_size=32.")

    def points(self, shape: tuple[int, ...]) -> int:
        return 2 * min(self.coordinates, self._space(shape).counts[0]) + 1

    def progress(self, state: ZOOState) -> Tensor:
        share = state.step / (self.steps + 1)
        return ((state.search + share) / self.search_steps).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> ZOOState:
        turns = self._turns(x.shape[1:])
        size = sum(turns.space.counts)
        return turns.shuffle(ZOOState.begin(x, size, self.initial_const, rng))

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        return self._space(shape).separate

    def ask(self, state: ZOOState) -> Query:
        turns = self._turns(state.x.shape[1:])
        space = turns.space
        at = turns.next(state)
        points = space.around(state.x, state.noise, at, STEP[self.update])
        # A row that took its last step has that point judged, and no other.
        alone = state.probing | (state.step >= self.steps)
        valid = None
        if not surely_none(alone):
            first = torch.arange(points.shape[1], device=alone.device) == 0
            valid = ~alone.unsqueeze(1) | first  # (B, 2 n + 1)
        beside = space.neighbours(points, at)
        return Query.scores(points, valid, loss=margin_loss, beside=beside)

    def tell(self, state: ZOOState, answer: Answer) -> ZOOState:
        turns = self._turns(state.x.shape[1:])
        lead = -answer.need_loss()  # (B, 2 n + 1), the margin
        # Where the other class leads by more than is asked the hinge is flat: its slope is 0, and
        # costs no queries.
        flat = lead[:, 0] < -self.confidence
        last = state.step >= self.steps
        moves = (flat | ~state.probing) & ~last
        lead = lead.clamp(min=-self.confidence)
        lead = lead.masked_fill(flat.unsqueeze(1), -self.confidence)
        distance = turns.space.squared(state.x, state.noise)
        objective = distance + state.const * (lead[:, 0] + self.confidence)  # (B,)
        due = moves & (state.step % max(1, self.steps // 10) == 0) & (state.step > 0)
        over = last | (due & (objective > PROGRESS * state.milestone))
        # Adam starts afresh at the first success, or its momentum overshoots (section 3.3 and the
        # authors' code).
        first = (flat & ~state.reached).reshape(-1, 1, 1)
        state = state.replace(memory=state.memory.masked_fill(first, 0))
        state = descend(state, turns, lead, moves, self.update, self.learning_rate).replace(
            reached=state.reached | flat,
            probing=flat,
            milestone=torch.where(due, objective, state.milestone),
            step=state.step + moves,
            moves=state.moves + moves,
        )
        return turns.shuffle(state.next_const(over, self.search_steps))

    def _space(self, shape: tuple[int, ...]) -> NoiseSpace:
        return NoiseSpace.create(tuple(shape), self.attack_size, self.grow_every > 0, self.tanh)

    def _turns(self, shape: tuple[int, ...]) -> Turns:
        level_steps = self.grow_every or None
        return Turns(self._space(shape), self.coordinates, self.importance, level_steps)
