"""The sigma-zero attack.

Cina et al. 2025, "sigma-zero: gradient-based optimization of l0-norm adversarial examples",
arXiv:2402.01879.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.search import (
    Access,
    Answer,
    Attack,
    Kind,
    Moments,
    Query,
    SampleRng,
    State,
    adam_update,
    margin,
)
from robustbench_lite.search.descent import anneal
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

LAST_RATE = 0.1
"""Share of the learning rate at the end."""


@dataclass(frozen=True)
class SigmaZeroState(State):
    x: Tensor
    x_adv: Tensor
    moments: Moments
    step: Tensor  # (B,) gradient steps so far
    threshold: Tensor  # (B,) tau of the paper


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack[SigmaZeroState]):
    """Minimise the margin plus a smooth count of the changed pixels with Adam.

    The paper's loop (algorithm 1)::

        repeat steps times:
            loss = max(margin, 0) + mean over pixels of d^2 / (d^2 + sigma), d the change of a pixel
            delta = delta - an Adam step along the gradient of loss, divided by its largest entry
            threshold rises by threshold_rate learning_rate after a success, else it falls
            pixels that changed by less than the threshold are put back

    The learning rate falls to a tenth along half a cosine. The point after the last step is judged
    as well. Cost a sample: ``steps`` gradients and one forward.

    Deviation: the paper counts values, and this pixels, whatever their channels do. ``d`` is the L2
    length over the channels in the smooth count, and the largest channel at the threshold. With one
    channel it is the same.

    Args:
        steps: of Adam.
        learning_rate: of the first step.
        sigma: how smooth the count is; small is sharp.
        threshold: the first one.
        threshold_rate: share of the learning rate by which it changes at each step.
    """

    name: ClassVar[str] = "sigma_zero"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Cina et al. 2025, arXiv:2402.01879"

    steps: int = 1000
    learning_rate: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    threshold_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"sigma_zero needs steps of at least 1, not {self.steps}.")
        if not (self.learning_rate > 0 and self.sigma > 0 and self.threshold_rate >= 0):
            needs = "learning_rate and sigma above 0 and a threshold_rate of at least 0"
            raise UsageError(f"sigma_zero needs {needs}.")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"sigma_zero needs a threshold from 0 to 1, not {self.threshold}.")

    def progress(self, state: SigmaZeroState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> SigmaZeroState:
        step = torch.zeros_like(y)
        threshold = x.new_full((len(x),), self.threshold)
        return SigmaZeroState(step.bool(), x, x.clone(), Moments.fresh(x), step, threshold)

    def ask(self, state: SigmaZeroState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, _hinge, rows=state.step < self.steps)

    def tell(self, state: SigmaZeroState, answer: Answer) -> SigmaZeroState:
        delta = state.x_adv - state.x
        slope = self._count_slope(delta).sub_(answer.need_gradient())
        largest = slope.abs().flatten(1).amax(1).clamp_min(1e-12)
        slope.div_(per_row(largest, slope))
        rate = self._rate(state.step)
        count = per_row(state.step + 1, slope)
        move, moments = adam_update(state.moments, slope, count, per_row(rate, slope))
        delta = (state.x_adv - move).clamp_(0, 1).sub_(state.x)
        # The threshold follows the rate of the next step, as in the authors' code.
        change = self.threshold_rate * self._rate(state.step + 1)
        threshold = state.threshold + torch.where(answer.success, change, -change)
        threshold.clamp_(0, 1)
        changed = delta.abs().amax(1, keepdim=True)  # (B, 1, H, W)
        delta.mul_(changed >= per_row(threshold, changed))
        return state.replace(
            x_adv=delta.add_(state.x),
            moments=moments,
            step=state.step + 1,
            threshold=threshold,
            finished=state.finished | (state.step >= self.steps),
        )

    def _rate(self, step: Tensor) -> Tensor:
        return anneal(step, self.steps, self.learning_rate, LAST_RATE * self.learning_rate)

    def _count_slope(self, delta: Tensor) -> Tensor:
        """The gradient of the smooth count by ``delta``, shaped as it is."""
        square = delta.square().sum(1, keepdim=True)  # (B, 1, H, W)
        pixels = square[0].numel()
        return delta * (2 * self.sigma / pixels / (square + self.sigma).square())


def _hinge(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Minus max(margin, 0), (N,)."""
    return -margin(logits, y, target).clamp_min(0)
