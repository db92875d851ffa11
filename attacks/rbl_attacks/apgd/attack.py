"""Auto-PGD.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv:2003.01690; in L1 Croce and Hein 2021, arXiv:2103.01208.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.apgd.climb import renew
from rbl_attacks.apgd.course import APGDState, Ascents
from rbl_attacks.apgd.sparse import SparseWalk
from rbl_attacks.apgd.walks import MomentumWalk, Walk
from robustbench_lite.errors import UsageError
from robustbench_lite.rows.losses import LOSSES, Loss, LossName
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Query,
    SampleRng,
    logit_difference,
    surely_none,
)
from robustbench_lite.search.targets import Targets
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class APGD(Attack[APGDState]):
    """Climb a loss in steps that halve themselves where it no longer rises.

    Steps begin at twice eps and keep a quarter of the one before. At checkpoints, a row whose loss
    rose too seldom, or is no higher than at the last one, goes back to its best point and halves
    its steps. In L1 steps move few coordinates, and a search goes through radii of 3 and 2 eps to
    eps; points outside of the ball are no successes. Cost a sample: ``steps`` gradients and one
    forward (L1: and two gradients) a class and restart, at most.

    Deviations from the authors' code: a rise of the first step counts if the loss is above that of
    the start, not above 0; a row ends at its first success; checkpoints and draws are its own.

    Args:
        steps: of one climb; in L1 of the three radii together, 3, 3 and 4 tenths.
        restarts: runs from new starts for samples that are not broken yet.
        loss: ``ce``, ``dlr`` (the paper's; below three classes, four with a target, a margin), or
            ``margin``, which towards a class is z_t - z_y.
        targets: ``none`` leaves the true class. ``all``, ``top:K`` and ``malt:K`` drive to K wrong
            classes, each from a fresh start, in the order of the logits or of linearised distances
            (arXiv:2407.02240); to rank them costs a gradient, ``malt`` 9.
        rho: share of the steps that must raise the loss.
    """

    name: ClassVar[str] = "apgd"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Kind] = "fixed_eps"
    batches: ClassVar[int] = 4
    starts_anywhere: ClassVar[bool] = True
    paper: ClassVar[str] = "Croce and Hein 2020, arXiv:2003.01690"

    steps: int = 100
    restarts: int = 1
    loss: LossName = "ce"
    targets: str = "none"
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            given = f"{self.steps} and {self.restarts}"
            raise UsageError(f"apgd needs steps and restarts of at least 1, not {given}.")
        if self.loss not in LOSSES:
            raise UsageError(f"apgd knows the losses {', '.join(LOSSES)}, not {self.loss!r}.")
        if not 0 <= self.rho <= 1:
            raise UsageError(f"apgd needs a rho from 0 to 1, not {self.rho}.")
        Targets.parse(self.targets)

    @property
    def _targets(self) -> Targets:
        return Targets.parse(self.targets)

    @property
    def _loss(self) -> Loss:
        aimed = self.targets != "none" and self.loss == "margin"
        return self._targets.loss(logit_difference if aimed else LOSSES[self.loss])

    def _walk(self, threat: ThreatModel) -> Walk:
        walk = SparseWalk if threat.norm.name == "l1" else MomentumWalk
        return walk(steps=self.steps, rho=self.rho)

    def check(self, threat: ThreatModel) -> None:
        self._targets.check(self.name, threat)

    def progress(self, state: APGDState) -> Tensor:
        walk = state.course.walk
        climbs = state.turns.place * walk.phases + state.phase
        share = state.climb.step / walk.lengths(state.phase).clamp_min(1)
        whole = torch.where(state.turns.number > 0, state.turns.number, 1) * walk.phases
        return ((climbs + share) / whole).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> APGDState:
        return self.init_at(x.new_empty(len(x), 0), x, y, threat, rng)

    def init_at(
        self, start: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng
    ) -> APGDState:
        turns = self._targets.begin(y)
        course = Ascents(self._walk(threat), x, start, rng, threat)
        phase = torch.full_like(y, course.walk.first_phase)
        climb = course.begin(phase, turns.place)
        return APGDState(torch.zeros_like(y, dtype=torch.bool), phase, turns, climb, course)

    def ask(self, state: APGDState) -> Query:
        turns = state.turns
        walk = state.course.walk
        points = state.climb.x_adv
        if not surely_none(turns.ranking):
            points = torch.where(turns.ranking.reshape(-1, 1, 1, 1), state.course.x, points)
        # A row that took its very last step still has that point judged, without a gradient.
        final = (turns.place + 1 >= turns.number) & (state.phase == walk.phases - 1)
        final &= ~turns.ranking & (state.climb.step >= walk.lengths(state.phase))
        return Query.gradient(
            points,
            self._loss,
            rows=~final,
            toward=self._targets.toward(turns),
            explores=state.phase < walk.phases - 1 if walk.phases > 1 else None,
        )

    def tell(self, state: APGDState, answer: Answer) -> APGDState:
        course = state.course
        climbing = ~(state.turns.ranking | state.finished)
        turns = self._targets.rank(state.turns, answer, course.threat.norm)
        climb = state.climb.see(answer, climbing)
        over = climbing & (climb.step >= course.walk.lengths(state.phase))
        climb = course.go(climb, answer.need_gradient(), state.phase, climbing)
        last = over & (state.phase == course.walk.phases - 1)
        turns = turns.next(last)
        phase = torch.where(last, course.walk.first_phase, state.phase + over)
        if course.walk.phases > 1 or self.targets != "none":
            again = over & ~turns.over
            climb = renew(climb, again, course.next(climb, phase, turns.place, last))
        return APGDState(state.finished | turns.over, phase, turns, climb, course)
