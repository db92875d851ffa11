"""Fast gradient sign method. Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", arXiv:1412.6572."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.search.attack import Access, Answer, Attack, Query, State
from robustbench_lite.search.looks import surely_all
from robustbench_lite.search.losses import cross_entropy
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel

SWEEP = (0.25, 0.5, 1.0)
"""Shares of eps that are tried, the shortest first."""


@dataclass(frozen=True)
class FGSMState(State):
    x: Tensor
    candidates: Tensor
    """The points to judge, (B, P, C, H, W); copies of the image until the gradient is known."""
    has_gradient: Tensor
    """(B,) bool."""
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of length eps along the steepest ascent of the cross-entropy at the image.

    Cost a sample: one gradient, and one forward for each candidate.

    Args:
        sweep: judge the steps of eps/4 and eps/2 too. Networks trained on this very step can hide behind its full length
            (label leaking, Kurakin et al. 2017, arXiv:1611.01236) and still break on the way.
    """

    name: ClassVar[str] = "fgsm"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Literal["fixed_eps", "minimal_distance"]] = "fixed_eps"
    batches: ClassVar[int] = 8
    paper: ClassVar[str] = "Goodfellow et al. 2015, arXiv:1412.6572"

    sweep: bool = True

    @property
    def _shares(self) -> tuple[float, ...]:
        return SWEEP if self.sweep else SWEEP[-1:]

    def points(self, shape: tuple[int, ...]) -> int:
        return len(self._shares)

    def progress(self, state: FGSMState) -> Tensor:
        return state.has_gradient.float() / 2

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> FGSMState:
        pending = torch.zeros_like(y, dtype=torch.bool)
        candidates = x.unsqueeze(1).repeat(1, len(self._shares), 1, 1, 1)  # (B, P, C, H, W)
        return FGSMState(finished=pending, x=x, candidates=candidates, has_gradient=pending, threat=threat)

    def ask(self, state: FGSMState) -> Query:
        if not self.sweep:
            points = state.candidates[:, 0]
            if surely_all(state.has_gradient):
                return Query.labels(points, final=True)
            return Query.gradient(points, cross_entropy, rows=~state.has_gradient)
        # The gradient is asked at the first point alone; the candidates that it yields are only judged.
        first = torch.arange(len(self._shares), device=state.x.device) == 0  # (P,)
        valid = state.has_gradient.unsqueeze(1) | first  # (B, P)
        return Query.gradient(state.candidates, cross_entropy, rows=~state.has_gradient, valid=valid)

    def tell(self, state: FGSMState, answer: Answer) -> FGSMState:
        if surely_all(state.has_gradient):
            return state.replace(finished=torch.ones_like(state.finished))
        gradient = answer.need_gradient()
        ascent = state.threat.ascent(state.x, gradient[:, 0] if self.sweep else gradient)
        steps = [state.threat.project(state.x + share * state.threat.radius * ascent, state.x) for share in self._shares]
        candidates, waiting = torch.stack(steps, 1), ~state.has_gradient  # (B, P, C, H, W)
        if not surely_all(waiting):
            # A row that had its candidates judged is finished, and what it would ask next does not matter.
            candidates = torch.where(waiting.reshape(-1, 1, 1, 1, 1), candidates, state.candidates)
        return state.replace(candidates=candidates, has_gradient=torch.ones_like(waiting), finished=state.finished | ~waiting)
