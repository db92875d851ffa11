"""The Fast Adaptive Boundary attack.

Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary
attack", arXiv:1907.02044.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.fab.step import RADII, FABState, Pace, begin, go_on, nearest_plane
from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Query,
    SampleRng,
    logit_difference,
)
from robustbench_lite.search.targets import Targets
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FAB(Attack[FABState]):
    """Go to the linearised boundary, overshoot a little, and go back a little after a success.

    The paper's loop, for a class t (FAB-T)::

        repeat steps times:
            plane = where z_t - z_y is 0, by its gradient at x_adv
            u, v = moves of x_adv and of x to the plane, within the bounds
            a = min(|u| / (|u| + |v|), alpha_max)
            x_adv = (1 - a) (x_adv + eta u) + a (x + eta v)
            after a success: x_adv = x + beta (x_adv - x)

    A point is asked about once: it is judged, and its gradient gives the next plane. Deviation:
    after a success that plane serves the point further back, too, which the authors ask about
    again. Restarts begin at random points of half the radius. Cost a sample: one forward, and
    ``steps`` gradients and one forward a class and restart; with ``targets=none`` gradients for all
    wrong classes at each step.

    Args:
        steps: of a run.
        restarts: runs a class.
        alpha_max: largest share of the step that starts from the image.
        eta: how far to go, in parts of the way to the plane.
        beta: share of the way from the image that is kept after a success.
        targets: ``top:9`` runs once for each of the 9 classes of the largest logits (FAB-T);
            ``all``; ``malt:K``; ``none`` goes to the nearest of all planes at each step.
    """

    name: ClassVar[str] = "fab"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(RADII)
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    targeted: ClassVar[bool] = False
    paper: ClassVar[str] = "Croce and Hein 2020, arXiv:1907.02044"

    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    targets: str = "top:9"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            given = f"{self.steps} and {self.restarts}"
            raise UsageError(f"fab needs steps and restarts of at least 1, not {given}.")
        if not (0 <= self.alpha_max <= 1 and 0 <= self.beta <= 1 and self.eta >= 1):
            needs = "alpha_max and beta from 0 to 1 and an eta of at least 1"
            raise UsageError(f"fab needs {needs}.")
        Targets.parse(self.targets)

    @property
    def _targets(self) -> Targets:
        return Targets.parse(self.targets)

    def progress(self, state: FABState) -> Tensor:
        run = state.step.clamp_min(0) / (self.steps + 1)
        return ((state.turns.place + run) / state.turns.number.clamp_min(1)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> FABState:
        turns = self._targets.begin(y)
        step = torch.full_like(y, -1)
        return FABState(step >= 0, x, x.clone(), begin(x, threat, rng), step, turns, threat, 0)

    def ask(self, state: FABState) -> Query:
        rows = (state.step >= 0) & (state.step < self.steps)
        if self._targets.rule != "none":
            loss = self._targets.loss(logit_difference)
            rows |= self._targets.wants_gradient(state.turns)
            toward = self._targets.toward(state.turns)
            return Query.gradient(state.x_adv, loss, rows=rows, toward=toward)
        rivals = max(1, state.classes - 1)
        points = state.x_adv.unsqueeze(1).expand(-1, rivals, *state.x.shape[1:])
        rival = torch.arange(rivals, device=rows.device)
        toward = rival + (rival >= state.turns.y.unsqueeze(1))
        # Points of the clean image and of the last step are judged once, without gradients.
        valid = rows.unsqueeze(1) | (rival == 0)
        return Query.gradient(points, logit_difference, rows=rows, valid=valid, toward=toward)

    def tell(self, state: FABState, answer: Answer) -> FABState:
        fresh = state.step < 0
        success = answer.success if answer.success.dim() == 1 else answer.success[:, 0]
        pace = Pace(self.alpha_max, self.eta, self.beta)
        plane = nearest_plane(answer, state.threat.norm)
        x_adv = go_on(state, plane, success, pace)
        turns = self._targets.rank(state.turns, answer, state.threat.norm)
        over = state.step >= self.steps
        turns = turns.next(over)
        waits = turns.ranking
        begins = (over | fresh).reshape(-1, 1, 1, 1)
        x_adv = torch.where(begins, state.start, x_adv)
        x_adv = torch.where(waits.reshape(-1, 1, 1, 1), state.x, x_adv)
        return state.replace(
            x_adv=x_adv,
            step=torch.where(waits, -1, torch.where(over, 0, state.step + 1)),
            turns=turns,
            classes=answer.need_logits().shape[-1],
            finished=state.finished | turns.over,
        )
