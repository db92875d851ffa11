"""Projected gradient descent.

Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", arXiv:1706.06083; with momentum Dong et al.
2018, "Boosting adversarial attacks with momentum", arXiv:1710.06081.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Attack, Kind, Query, State
from robustbench_lite.search.losses import LOSSES, LossName
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row


@dataclass(frozen=True)
class PGDState(State):
    x: Tensor
    x_adv: Tensor
    step: Tensor
    """Gradient steps taken so far, (B,)."""
    velocity: Tensor
    """Decayed sum of the normalised gradients, (B, C, H, W); (B, 0) without momentum."""
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(Attack[PGDState]):
    """Climb the loss in steps of fixed length, projecting back into the ball after each.

    The point after the last step is judged as well. Cost a sample: ``steps`` gradients and one forward a restart, at most.

    Args:
        steps: gradient steps of one run.
        step_size: length of a step in input units, measured in the norm; ``None`` is 2.5 eps / steps, which can cross the ball.
        random_start: begin at a random point of the ball instead of the image.
        restarts: runs from new starts for samples that are not broken yet.
        momentum: share of the summed gradients that the next step keeps (mu of arXiv:1710.06081, 1.0 there); 0 is plain PGD.
        loss: ``ce`` (the paper's), ``margin``, or ``dlr`` (arXiv:2003.01690), which rescaled logits cannot fool.
    """

    name: ClassVar[str] = "pgd"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Kind] = "fixed_eps"
    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise UsageError(f"pgd needs steps and restarts of at least 1, not {self.steps} and {self.restarts}.")
        if self.step_size is not None and not self.step_size > 0:
            raise UsageError(f"pgd needs a step_size above 0, not {self.step_size}.")
        if not 0 <= self.momentum <= 1:
            raise UsageError(f"pgd needs a momentum from 0 to 1, not {self.momentum}.")
        if self.loss not in LOSSES:
            raise UsageError(f"pgd knows the losses {', '.join(LOSSES)}, not {self.loss!r}.")
        if self.restarts > 1 and not self.random_start:
            raise UsageError("pgd with random_start=false starts every restart at the same point: set restarts=1.")

    def progress(self, state: PGDState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> PGDState:
        x_adv = threat.random_start(x, rng) if self.random_start else x.clone()
        step, velocity = torch.zeros_like(y), torch.zeros_like(x) if self.momentum else x.new_empty(len(x), 0)
        return PGDState(finished=step.bool(), x=x, x_adv=x_adv, step=step, velocity=velocity, threat=threat)

    def ask(self, state: PGDState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, LOSSES[self.loss], rows=state.step < self.steps)

    def tell(self, state: PGDState, answer: Answer) -> PGDState:
        threat = state.threat
        step_size = self.step_size if self.step_size is not None else 2.5 * threat.radius / self.steps
        grad, velocity = answer.need_gradient(), state.velocity
        if self.momentum:  # equation 6, the gradient divided by its L1 norm
            length = grad.abs().flatten(1).sum(1).clamp_min(torch.finfo(grad.dtype).tiny)
            grad = velocity = self.momentum * velocity + grad / per_row(length, grad)
        ascent = threat.ascent(state.x_adv, grad)
        return state.replace(
            velocity=velocity,
            x_adv=threat.project(state.x_adv + step_size * ascent, state.x),
            step=state.step + 1,
            finished=state.finished | (state.step >= self.steps),
        )
