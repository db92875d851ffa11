"""Fast gradient sign method.

Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", arXiv:1412.6572.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Query,
    SampleRng,
    State,
    cross_entropy,
    surely_all,
)
from robustbench_lite.threat import ThreatModel

SWEEP = (0.25, 0.5, 1.0)
"""Shares of eps that are tried, the shortest first."""


@dataclass(frozen=True)
class FGSMState(State):
    x: Tensor
    candidates: Tensor  # (B, P, C, H, W), to be judged; the image until the gradient is known
    stepped: Tensor  # (B,) bool: the candidates are steps along the gradient
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack[FGSMState]):
    """One step of length eps along the steepest ascent of the cross-entropy at the image.

    Cost a sample: one gradient, and one forward for each candidate.

    Args:
        sweep: judge the steps of eps/4 and eps/2 too. Networks trained on this very step can hide
            behind its full length (label leaking, Kurakin et al. 2017, arXiv:1611.01236) and still
            break on the way.
    """

    name: ClassVar[str] = "fgsm"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Kind] = "fixed_eps"
    batches: ClassVar[int] = 8
    paper: ClassVar[str] = "Goodfellow et al. 2015, arXiv:1412.6572"

    sweep: bool = True

    @property
    def _shares(self) -> tuple[float, ...]:
        return SWEEP if self.sweep else SWEEP[-1:]

    def points(self, shape: tuple[int, ...]) -> int:
        return len(self._shares)

    def progress(self, state: FGSMState) -> Tensor:
        return state.stepped.float() / 2

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> FGSMState:
        candidates = x.unsqueeze(1).repeat(1, len(self._shares), 1, 1, 1)  # (B, P, C, H, W)
        no = torch.zeros_like(y, dtype=torch.bool)
        return FGSMState(finished=no, x=x, candidates=candidates, stepped=no, threat=threat)

    def ask(self, state: FGSMState) -> Query:
        if self.sweep:
            # The gradient is asked at one point alone; the steps along it are only judged.
            first = torch.arange(len(self._shares), device=state.x.device) == 0  # (P,)
            valid = state.stepped.unsqueeze(1) | first  # (B, P)
            points = state.candidates
            return Query.gradient(points, cross_entropy, rows=~state.stepped, valid=valid)
        points = state.candidates[:, 0]
        if surely_all(state.stepped):
            return Query.labels(points, final=True)
        return Query.gradient(points, cross_entropy, rows=~state.stepped)

    def tell(self, state: FGSMState, answer: Answer) -> FGSMState:
        if surely_all(state.stepped):
            return state.replace(finished=torch.ones_like(state.finished))
        gradient = answer.need_gradient()
        steps = self._step(state, gradient[:, 0] if self.sweep else gradient)
        if not surely_all(~state.stepped):
            # A row whose steps were judged is finished: what it would ask next does not matter.
            steps = torch.where(state.stepped.reshape(-1, 1, 1, 1, 1), state.candidates, steps)
        finished = state.finished | state.stepped
        stepped = torch.ones_like(state.stepped)
        return state.replace(candidates=steps, stepped=stepped, finished=finished)

    def _step(self, state: FGSMState, gradient: Tensor) -> Tensor:
        """x + eps sign(gradient), in Linf and at full length: (B, P, C, H, W)."""
        x = state.x
        threat = state.threat
        ascent = threat.ascent(x, gradient)
        steps = [x + share * threat.radius * ascent for share in self._shares]
        return torch.stack([threat.project(step, x) for step in steps], 1)
