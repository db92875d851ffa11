"""Carlini-Wagner attacks. Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", arXiv:1608.04644."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.carlini_wagner_distance import DISTANCES, CarliniWagnerState
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Attack, Query
from robustbench_lite.search.looks import free_to_look, surely_none
from robustbench_lite.search.losses import margin
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

SQUASH = 0.999999
"""Images shrink by this before atanh: a pixel at exactly 0 or 1 would lie at infinity and never move."""
DECAY, DECAY_SQUARE, TINY = 0.9, 0.999, 1e-8
"""Adam's constants."""
PROGRESS = 0.9999
"""A run goes on while its loss falls below this share within a tenth of it."""
MOVED = 1e-4
"""A row that has moved by less, in the norm, is still leaving the ends of the tanh: its loss cannot tell yet."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Minimise distance + c max(margin + confidence, 0) with Adam, in tanh space, for the c that suits each sample.

    A sample's constants, steps and stops are its own. Cost a sample: ``search_steps * steps`` gradients, at most.

    Args:
        steps: of one run of Adam. The paper has 10,000; 1,000 is near convergence.
        search_steps: runs, one for each c tried (L2); Linf has more and shorter runs, of as many steps in all.
        initial_const: the first c.
        confidence: margin of the wrong class at which the search counts a run as a success. It steers the search only: what
            is kept is the nearest adversarial on the way, however narrow.
        abort_early: end a run whose loss has not fallen by 0.01 % within a tenth of ``steps``. Deviations, as a row has no
            neighbours to keep it going: in L2 only before the first success, and never before the row has moved.
    """

    name: ClassVar[str] = "carlini_wagner"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(DISTANCES)
    kind: ClassVar[Literal["fixed_eps", "minimal_distance"]] = "minimal_distance"
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
            raise UsageError(
                f"carlini_wagner needs steps and search_steps of at least 1, not {self.steps} and {self.search_steps}."
            )
        if not (self.initial_const > 0 and self.learning_rate > 0 and self.confidence >= 0):
            raise UsageError("carlini_wagner needs initial_const and learning_rate above 0 and a confidence of at least 0.")

    def progress(self, state: CarliniWagnerState) -> Tensor:
        return ((state.spent + state.step) / (self.search_steps * self.steps)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> CarliniWagnerState:
        zeros, zero, blank = torch.zeros_like(y), torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        v = 2 * torch.atanh(SQUASH * (2 * x - 1))
        return CarliniWagnerState(
            finished=zeros.bool(), x=x, x_adv=v.sigmoid(), v=v, start=v.clone(), mean=blank, square=blank.clone(), step=zeros,
            spent=zeros, const=zero + self.initial_const, known=zero + self.initial_const, tau=zero + 1, low=zero,
            high=zero + float("inf"), hit=zeros.bool(), checked=zero + float("inf"), distance=DISTANCES[threat.norm.name],
        )  # fmt: skip

    def ask(self, state: CarliniWagnerState) -> Query:
        return Query.gradient(state.x_adv, self._hinge)

    def tell(self, state: CarliniWagnerState, answer: Answer) -> CarliniWagnerState:
        delta = state.x_adv - state.x
        shortfall = -answer.need_loss()  # f of the paper, (B,)
        value, slope, size = state.distance.term(delta, state.tau)
        hit = state.hit | (answer.success & (shortfall == 0) & (value <= state.distance.hit_value))
        last = (state.step + 1 >= self.steps) | (state.spent + state.step + 1 >= self.search_steps * self.steps)
        over = last | (hit & state.distance.ends_on_hit)
        slope.addcmul_(per_row(state.const, slope), answer.need_gradient(), value=-0.5)
        due = state.step % max(1, self.steps // 10) == 0
        state = state.replace(hit=hit, step=state.step + 1)
        if not surely_none(due):
            loss = value + state.const * shortfall
            over = over | (due & self._stalled(state, loss, size))
            state = state.replace(checked=torch.where(due, loss, state.checked))
        if surely_none(over):  # most steps end no run
            return self._adam(state, slope)
        state = self._start_run(self._adam(state.distance.next_run(state, over, self.steps), slope), over)
        return state.replace(finished=state.finished | (state.spent >= self.search_steps * self.steps))

    def _stalled(self, s: CarliniWagnerState, loss: Tensor, size: Tensor) -> Tensor:
        """Rows whose ``loss`` (B,) has not fallen since it was last checked, where that says that the run leads nowhere."""
        # Black and white pixels take a while to leave their ends of the tanh: a row that has not moved yet is not stuck.
        # Once some c of L2 has succeeded, a run cut short would count its c as too small, or end farther away.
        nothing_yet = (s.high.isinf() & ~s.hit) | s.distance.ends_on_hit
        return (loss > PROGRESS * s.checked) & (size > MOVED) & nothing_yet & self.abort_early

    def _hinge(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Minus max(margin + confidence, 0), (N,): the paper's -f_6."""
        return -(margin(logits, y, target) + self.confidence).clamp_min(0)

    def _adam(self, s: CarliniWagnerState, slope: Tensor) -> CarliniWagnerState:
        """One step down ``slope``, half the gradient by the image, each row with the bias correction of its own step.

        Adam does not care for the scale of a gradient beyond ``TINY``: none of the factors 2 is worth a pass over memory. In
        place on ``slope``, v and the moments: on a CPU memory that is asked for anew costs more than the arithmetic.
        """
        scratch = torch.addcmul(s.x_adv, s.x_adv, s.x_adv, value=-1)
        slope.mul_(scratch)  # dx/dw = (1 - tanh(w)^2) / 2 = 2 x (1 - x): this is a quarter of the gradient by w
        mean = s.mean.lerp_(slope, 1 - DECAY)
        square = s.square.mul_(DECAY_SQUARE).addcmul_(slope, slope, value=1 - DECAY_SQUARE)
        unbias = (1 - DECAY_SQUARE**s.step).sqrt()  # (B,)
        rate = self.learning_rate * unbias / (1 - DECAY**s.step)
        size = torch.sqrt(square, out=scratch).add_(per_row(TINY / 4 * unbias, slope)).div_(per_row(2 * rate, slope))
        v = s.v.addcdiv_(mean, size, value=-1)
        return s.replace(x_adv=v.sigmoid())

    def _start_run(self, s: CarliniWagnerState, over: Tensor) -> CarliniWagnerState:
        """Fresh moments, back to the starting point, for rows whose run is ``over``."""
        s = s.replace(step=s.step.masked_fill(over, 0), hit=s.hit & ~over, checked=s.checked.masked_fill(over, float("inf")))
        if free_to_look(over):  # there are few such rows
            rows = over.nonzero().squeeze(1)
            start = s.start[rows]
            for whole, fresh in ((s.v, start), (s.x_adv, start.sigmoid()), (s.mean, 0.0), (s.square, 0.0)):
                whole[rows] = fresh
            return s
        rows = over.reshape(-1, 1, 1, 1)
        v = torch.where(rows, s.start, s.v)
        return s.replace(v=v, x_adv=v.sigmoid(), mean=s.mean.masked_fill(rows, 0), square=s.square.masked_fill(rows, 0))
