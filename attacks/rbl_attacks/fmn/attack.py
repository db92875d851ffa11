"""Fast Minimum-Norm attacks.

Pintor et al. 2021, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
arXiv:2102.12827.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.fmn.balls import PROJECTIONS, stretch
from robustbench_lite.errors import UsageError
from robustbench_lite.rows.losses import margin_loss
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng, State
from robustbench_lite.search.descent import anneal, unit_direction
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

STEP_SHARE = 0.01
"""Share of the first step that the last one is long."""
LAST_GAMMA = 0.001
"""What ``gamma`` ends at (the authors' code)."""


@dataclass(frozen=True)
class FMNState(State):
    x: Tensor
    x_adv: Tensor
    step: Tensor  # (B,) gradient steps so far
    radius: Tensor  # (B,) epsilon of the paper
    best: Tensor  # (B,) distance of the nearest success; inf before the first
    worst: Tensor  # (B,) distance of the farthest corner of the image bounds
    rng: SampleRng
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class FMN(Attack[FMNState]):
    """Climb the margin in a ball that shrinks after a success and grows after a failure.

    The paper's loop (algorithm 1)::

        repeat steps times:
            failed, nothing found yet:  radius = |delta| + |margin| / dual norm of the gradient
            failed:                     radius = radius (1 + gamma)
            succeeded:                  radius = min(radius (1 - gamma), nearest success)
            delta = project(delta + step_size gradient / |gradient|_2, radius)

    Step size and gamma fall along half a cosine. In L0 the radius changes by a pixel at least. The
    last point is judged as well. Cost a sample: ``steps`` gradients and one forward.

    Deviations. Before the first success the radius grows by gamma at least: an estimate that is
    right ends on the boundary, and no step leads over it. After a failure delta is stretched to the
    radius: inside a large ball the margin has maxima that are no success. And delta is cut to the
    bounds of the image before it is projected.

    Args:
        steps: gradient steps.
        step_size: L2 length of the first step; the last is a hundredth of it.
        gamma: share by which the radius changes at first; 0.001 at last.
    """

    name: ClassVar[str] = "fmn"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(PROJECTIONS)
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Pintor et al. 2021, arXiv:2102.12827"

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"fmn needs steps of at least 1, not {self.steps}.")
        if not (self.step_size > 0 and LAST_GAMMA <= self.gamma < 1):
            raise UsageError(f"fmn needs a step_size above 0, and {LAST_GAMMA} <= gamma < 1.")

    def progress(self, state: FMNState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> FMNState:
        step = torch.zeros_like(y)
        nothing = x.new_full((len(x),), float("inf"))
        return FMNState(
            finished=step.bool(),
            x=x,
            x_adv=x.clone(),
            step=step,
            radius=torch.ones_like(nothing) if threat.norm.name == "l0" else nothing,
            best=nothing.clone(),
            worst=threat.norm.size(torch.maximum(x, 1 - x)),
            rng=rng,
            threat=threat,
        )

    def ask(self, state: FMNState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, margin_loss, rows=state.step < self.steps)

    def tell(self, state: FMNState, answer: Answer) -> FMNState:
        norm = state.threat.norm
        gradient = answer.need_gradient()
        delta = state.x_adv - state.x
        size = norm.size(delta)
        nearer = torch.minimum(state.best, size)
        state = state.replace(best=torch.where(answer.success, nearer, state.best))
        radius = self._radius(state, answer, size)
        direction = unit_direction(gradient, state.rng, state.step)
        step_size = anneal(state.step, self.steps, self.step_size, STEP_SHARE * self.step_size)
        delta.addcmul_(direction, per_row(step_size, delta))
        # What the bounds cut off would take up room in the ball.
        delta.add_(state.x).clamp_(0, 1).sub_(state.x)
        if norm.name != "l0":
            delta.mul_(per_row(stretch(radius, norm.size(delta), answer.success), delta))
        delta = PROJECTIONS[norm.name](delta, radius)
        return state.replace(
            x_adv=delta.add_(state.x).clamp_(0, 1),
            radius=radius,
            step=state.step + 1,
            finished=state.finished | (state.step >= self.steps),
        )

    def _radius(self, state: FMNState, answer: Answer, size: Tensor) -> Tensor:
        """The next radius of each row, (B,), where its point has the distance ``size`` (B,)."""
        gamma = anneal(state.step, self.steps, self.gamma, LAST_GAMMA)
        smaller = state.radius * (1 - gamma)
        larger = state.radius * (1 + gamma)
        if state.threat.norm.name == "l0":
            smaller = torch.minimum(state.radius - 1, smaller.floor()).clamp_min(0)
            larger = torch.maximum(state.radius + 1, larger.floor())
        else:
            slope = state.threat.norm.dual_size(answer.need_gradient()).clamp_min(1e-12)
            linear = size + answer.need_loss().abs() / slope
            least = torch.where(state.radius.isfinite(), larger, 0)
            larger = torch.where(state.best.isfinite(), larger, torch.maximum(linear, least))
        smaller = torch.minimum(smaller, state.best)
        return torch.where(answer.success, smaller, larger).minimum(state.worst)
