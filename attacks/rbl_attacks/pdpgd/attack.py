"""Primal-dual proximal gradient descent.

Matyasko and Chau 2021, "PDPGD: primal-dual proximal gradient descent adversarial attack",
arXiv:2106.01538.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.pdpgd.descent import PDPGDState, Primal, descend
from rbl_attacks.pdpgd.proximal import PROXIMALS
from robustbench_lite.errors import UsageError
from robustbench_lite.search import Access, Answer, Attack, Kind, Moments, Query, SampleRng, margin
from robustbench_lite.threat import ThreatModel

LAST_PRIMAL = 0.01
LAST_DUAL = 0.1
"""Shares of both rates at the end."""
FIRST_RATIO = 0.01
"""Weight of the distance over that of the margin at first."""
LEAST_RATIO = 1e-6
"""Neither weight is smaller than this share of the other."""
KEPT = 0.9
"""What the decaying mean of the weights keeps at each step."""


@dataclass(frozen=True, kw_only=True)
class PDPGD(Attack[PDPGDState]):
    """Minimise the distance under the constraint of a wrong class, by its Lagrangian.

    The paper's loop (algorithm 2)::

        repeat steps times:
            delta = delta - an Adam step along the gradient of softplus(margin)
            delta = proximal step of the norm, by the ratio of the two weights
            the weight of the margin falls after a success, else it rises

    Step and weights change on a log scale. In L0 the norm is replaced by the power 2/3 of each
    pixel's change, as in the paper. The point after the last step is judged as well. Cost a sample:
    ``steps`` gradients and one forward.

    Args:
        steps: of Adam.
        learning_rate: of the first step; a hundredth of it at last.
        dual_rate: by which the logarithm of the weight changes at first; a tenth of it at last.
        proximal_steps: of the proximal step within Adam's metric (Melchior et al. 2019,
            arXiv:1910.10094), at most.
    """

    name: ClassVar[str] = "pdpgd"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(PROXIMALS)
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Matyasko and Chau 2021, arXiv:2106.01538"

    steps: int = 500
    learning_rate: float = 0.1
    dual_rate: float = 0.1
    proximal_steps: int = 5

    def __post_init__(self) -> None:
        if min(self.steps, self.proximal_steps) < 1:
            given = f"{self.steps} and {self.proximal_steps}"
            raise UsageError(f"pdpgd needs steps and proximal_steps of at least 1, not {given}.")
        if not (self.learning_rate > 0 and self.dual_rate > 0):
            raise UsageError("pdpgd needs a learning_rate and a dual_rate above 0.")

    def progress(self, state: PDPGDState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> PDPGDState:
        step = torch.zeros_like(y)
        log_weight = x.new_full((len(x),), -math.log(FIRST_RATIO))
        return PDPGDState(
            finished=step.bool(),
            x=x,
            x_adv=x.clone(),
            moments=Moments.fresh(x),
            step=step,
            log_weight=log_weight,
            weight=log_weight.sigmoid(),
            threat=threat,
        )

    def ask(self, state: PDPGDState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, _soft_hinge, rows=state.step < self.steps)

    def tell(self, state: PDPGDState, answer: Answer) -> PDPGDState:
        done = state.step / self.steps  # (B,)
        primal = Primal(self.learning_rate * LAST_PRIMAL**done, self.proximal_steps)
        x_adv, moments = descend(state, answer.need_gradient(), primal)
        share = (1 - state.step / max(1, self.steps - 1)).clamp_min(0)
        rate = self.dual_rate * (LAST_DUAL + (1 - LAST_DUAL) * share)
        most = -math.log(LEAST_RATIO)
        log_weight = state.log_weight + torch.where(answer.success, -rate, rate)
        log_weight.clamp_(-most, most)
        return state.replace(
            x_adv=x_adv,
            moments=moments,
            step=state.step + 1,
            log_weight=log_weight,
            weight=state.weight.lerp(log_weight.sigmoid(), 1 - KEPT),
            finished=state.finished | (state.step >= self.steps),
        )


def _soft_hinge(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Minus softplus of the margin, (N,)."""
    return -F.softplus(margin(logits, y, target))
