"""Projected gradient descent.

Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks",
arXiv:1706.06083; with momentum Dong et al. 2018, "Boosting adversarial attacks with momentum",
arXiv:1710.06081.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.rows.losses import LOSSES, LossName
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng, State
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row


@dataclass(frozen=True)
class PGDState(State):
    x: Tensor
    x_adv: Tensor
    step: Tensor  # (B,) gradient steps so far
    velocity: Tensor  # (B, C, H, W) decayed sum of normalised gradients; (B, 0) without momentum
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class PGD(Attack[PGDState]):
    """Climb the loss in steps of fixed length, projecting back into the ball after each.

    The paper's loop::

        x_adv = random point of the ball around x
        repeat steps times:
            gradient = of loss(model(x_adv), y) by x_adv
            x_adv = project(x_adv + step_size * ascent(gradient), x)

    In Linf the ascent is the sign of the gradient. The point after the last step is judged as well.
    Cost a sample: ``steps`` gradients and one forward a restart, at most.

    Args:
        steps: gradient steps of one run.
        step_size: length of a step in input units, measured in the norm; ``None`` is
            2.5 eps / steps, which can cross the ball.
        random_start: begin at a random point of the ball instead of the image.
        restarts: runs from new starts for samples that are not broken yet.
        momentum: share of the summed gradients that the next step keeps (mu of arXiv:1710.06081,
            1.0 there); 0 is plain PGD.
        loss: ``ce`` (the paper's), ``margin``, or ``dlr`` (arXiv:2003.01690), which rescaled logits
            cannot fool.
    """

    name: ClassVar[str] = "pgd"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    kind: ClassVar[Kind] = "fixed_eps"
    starts_anywhere: ClassVar[bool] = True
    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            given = f"{self.steps} and {self.restarts}"
            raise UsageError(f"pgd needs steps and restarts of at least 1, not {given}.")
        if self.step_size is not None and not self.step_size > 0:
            raise UsageError(f"pgd needs a step_size above 0, not {self.step_size}.")
        if not 0 <= self.momentum <= 1:
            raise UsageError(f"pgd needs a momentum from 0 to 1, not {self.momentum}.")
        if self.loss not in LOSSES:
            raise UsageError(f"pgd knows the losses {', '.join(LOSSES)}, not {self.loss!r}.")
        if self.restarts > 1 and not self.random_start:
            same = "pgd with random_start=false starts every restart at the same point"
            raise UsageError(f"{same}: set restarts=1.")

    def progress(self, state: PGDState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> PGDState:
        x_adv = threat.random_start(x, rng) if self.random_start else x.clone()
        return self.init_at(x_adv, x, y, threat, rng)

    def init_at(
        self, start: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng
    ) -> PGDState:
        velocity = torch.zeros_like(x) if self.momentum else x.new_empty(len(x), 0)
        step = torch.zeros_like(y)
        return PGDState(step.bool(), x, start, step, velocity, threat)

    def ask(self, state: PGDState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, LOSSES[self.loss], rows=state.step < self.steps)

    def tell(self, state: PGDState, answer: Answer) -> PGDState:
        threat = state.threat
        step_size = 2.5 * threat.radius / self.steps if self.step_size is None else self.step_size
        gradient = answer.need_gradient()
        if self.momentum:
            gradient = self._accelerate(state.velocity, gradient)
        ascent = threat.ascent(state.x_adv, gradient)
        return state.replace(
            velocity=gradient if self.momentum else state.velocity,
            x_adv=threat.project(state.x_adv + step_size * ascent, state.x),
            step=state.step + 1,
            finished=state.finished | (state.step >= self.steps),
        )

    def _accelerate(self, velocity: Tensor, gradient: Tensor) -> Tensor:
        """The next velocity (equation 6): the gradient is divided by its L1 norm."""
        length = gradient.abs().flatten(1).sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return self.momentum * velocity + gradient / per_row(length, gradient)
