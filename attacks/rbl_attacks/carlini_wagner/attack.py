"""Carlini-Wagner attacks.

Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", arXiv:1608.04644.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.carlini_wagner.distance import DISTANCES, CarliniWagnerState
from rbl_attacks.carlini_wagner.run import begin_run, descend, to_tanh_space
from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Bracket,
    Kind,
    Moments,
    Query,
    SampleRng,
    margin,
    surely_none,
)
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

PROGRESS = 0.9999
"""A run goes on while its loss falls below this share within a tenth of it."""
MOVED = 1e-4
"""A row that has moved by less, in the norm, is still leaving the ends of the tanh."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack[CarliniWagnerState]):
    """Minimise distance + c max(margin + confidence, 0) with Adam, in tanh space, for the best c.

    A sample's constants, steps and stops are its own. Cost a sample: ``search_steps * steps``
    gradients, at most.

    Args:
        steps: of one run of Adam. The paper has 10,000; 1,000 is near convergence.
        search_steps: runs, one for each c tried (L2); Linf has more and shorter runs, of as many
            steps in all.
        initial_const: the first c.
        confidence: margin of the wrong class at which the search counts a run as a success. It
            steers the search only: what is kept is the nearest adversarial on the way, however
            narrow.
        abort_early: end a run whose loss has not fallen by 0.01 % within a tenth of ``steps``.
            Deviations, as a row has no neighbours to keep it going: in L2 only before the first
            success, and never before the row has moved.
    """

    name: ClassVar[str] = "carlini_wagner"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(DISTANCES)
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 2
    paper: ClassVar[str] = "Carlini and Wagner 2017, arXiv:1608.04644"

    steps: int = 1000
    search_steps: int = 9
    initial_const: float = 1e-3
    learning_rate: float = 0.01
    confidence: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        if min(self.steps, self.search_steps) < 1:
            needs = "steps and search_steps of at least 1"
            given = f"{self.steps} and {self.search_steps}"
            raise UsageError(f"carlini_wagner needs {needs}, not {given}.")
        if not (self.initial_const > 0 and self.learning_rate > 0 and self.confidence >= 0):
            needs = "initial_const and learning_rate above 0 and a confidence of at least 0"
            raise UsageError(f"carlini_wagner needs {needs}.")

    @property
    def _most_steps(self) -> int:
        """Of all runs of a row together."""
        return self.search_steps * self.steps

    def progress(self, state: CarliniWagnerState) -> Tensor:
        return ((state.spent + state.step) / self._most_steps).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> CarliniWagnerState:
        step = torch.zeros_like(y)
        const = torch.full(y.shape, self.initial_const, device=x.device)
        v = to_tanh_space(x)
        return CarliniWagnerState(
            finished=step.bool(),
            x=x,
            x_adv=v.sigmoid(),
            v=v,
            start=v.clone(),
            moments=Moments.fresh(v),
            step=step,
            spent=step,
            const=const,
            known=const.clone(),
            tau=torch.ones_like(const),
            bracket=Bracket.fresh(const),
            hit=step.bool(),
            checked=torch.full_like(const, float("inf")),
            distance=DISTANCES[threat.norm.name],
        )

    def ask(self, state: CarliniWagnerState) -> Query:
        return Query.gradient(state.x_adv, self._hinge)

    def _hinge(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Minus max(margin + confidence, 0), (N,): the paper's -f_6."""
        return -(margin(logits, y, target) + self.confidence).clamp_min(0)

    def tell(self, state: CarliniWagnerState, answer: Answer) -> CarliniWagnerState:
        shortfall = -answer.need_loss()  # f of the paper, (B,)
        value, slope, size = state.distance.term(state.x_adv - state.x, state.tau)
        # Half the gradient by the image of ``value`` + c f; the hinge is -f.
        slope.addcmul_(per_row(state.const, slope), answer.need_gradient(), value=-0.5)
        hit = answer.success & (shortfall == 0) & (value <= state.distance.hit_value)
        due = state.step % max(1, self.steps // 10) == 0
        state = state.replace(hit=state.hit | hit, step=state.step + 1)
        last = (state.step >= self.steps) | (state.spent + state.step >= self._most_steps)
        over = last | (state.hit & state.distance.ends_on_hit)
        if not surely_none(due):
            loss = value + state.const * shortfall
            over = over | (due & self._stalls(state, loss, size))
            state = state.replace(checked=torch.where(due, loss, state.checked))
        if surely_none(over):  # most steps end no run
            return descend(state, slope, self.learning_rate)
        state = state.distance.next_run(state, over, self.steps)
        state = begin_run(descend(state, slope, self.learning_rate), over)
        return state.replace(finished=state.finished | (state.spent >= self._most_steps))

    def _stalls(self, state: CarliniWagnerState, loss: Tensor, size: Tensor) -> Tensor:
        """Rows whose ``loss`` (B,) has not fallen since it was last checked, and will not."""
        # Black and white pixels take a while to leave their ends of the tanh: a row that has not
        # moved yet is not stuck. Once some c of L2 has succeeded, a run cut short would count its c
        # as too small, or end farther away.
        nothing_yet = (state.bracket.high.isinf() & ~state.hit) | state.distance.ends_on_hit
        flat = loss > PROGRESS * state.checked
        return flat & (size > MOVED) & nothing_yet & self.abort_early
