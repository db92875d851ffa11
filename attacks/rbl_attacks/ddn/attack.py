"""Decoupled Direction and Norm.

Rony et al. 2019, "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks
and defenses", arXiv:1811.09600.
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
    Query,
    SampleRng,
    State,
    cross_entropy,
)
from robustbench_lite.search.descent import anneal, unit_direction
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

FIRST_STEP = 1.0
LAST_STEP = 0.01
"""L2 lengths of the first and the last step (section 3)."""


@dataclass(frozen=True)
class DDNState(State):
    x: Tensor
    x_adv: Tensor
    step: Tensor  # (B,) gradient steps so far
    length: Tensor  # (B,) epsilon of the paper: the L2 norm that the next point has
    worst: Tensor  # (B,) distance of the farthest corner of the image bounds
    rng: SampleRng
    threat: ThreatModel


@dataclass(frozen=True, kw_only=True)
class DDN(Attack[DDNState]):
    """Climb the cross-entropy for a direction; its length falls after successes, else it grows.

    The paper's loop (algorithm 1)::

        repeat steps times:
            delta = delta + step_size gradient / |gradient|
            length = length (1 - gamma) after a success, length (1 + gamma) after a failure
            delta = length delta / |delta|

    The step size falls from 1 to 0.01 along half a cosine. The point after the last step is judged
    as well. Cost a sample: ``steps`` gradients and one forward.

    Args:
        steps: gradient steps.
        gamma: share by which the length changes.
        init_norm: the first length.
        levels: values of a channel to which points are rounded, as in images of 8 bits; ``None``
            rounds nothing. The authors' code rounds to 256.
    """

    name: ClassVar[str] = "ddn"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Rony et al. 2019, arXiv:1811.09600"

    steps: int = 100
    gamma: float = 0.05
    init_norm: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"ddn needs steps of at least 1, not {self.steps}.")
        if not 0 < self.gamma < 1:
            raise UsageError(f"ddn needs a gamma between 0 and 1, not {self.gamma}.")
        if not self.init_norm > 0:
            raise UsageError(f"ddn needs an init_norm above 0, not {self.init_norm}.")
        if self.levels is not None and self.levels < 2:
            raise UsageError(f"ddn needs levels of at least 2, or none, not {self.levels}.")

    def progress(self, state: DDNState) -> Tensor:
        return state.step / (self.steps + 1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> DDNState:
        step = torch.zeros_like(y)
        worst = threat.norm.size(torch.maximum(x, 1 - x))
        length = torch.full_like(worst, self.init_norm)
        return DDNState(step.bool(), x, x.clone(), step, length, worst, rng, threat)

    def ask(self, state: DDNState) -> Query:
        # A row that took its last step still has that point judged, without a gradient.
        return Query.gradient(state.x_adv, cross_entropy, rows=state.step < self.steps)

    def tell(self, state: DDNState, answer: Answer) -> DDNState:
        delta = state.x_adv - state.x
        direction = unit_direction(answer.need_gradient(), state.rng, state.step)
        step_size = anneal(state.step, self.steps, FIRST_STEP, LAST_STEP)
        delta.addcmul_(direction, per_row(step_size, delta))
        factor = torch.where(answer.success, 1 - self.gamma, 1 + self.gamma)
        length = torch.minimum(state.length * factor, state.worst)
        share = length / state.threat.norm.size(delta).clamp_min(1e-12)
        x_adv = torch.addcmul(state.x, delta, per_row(share, delta)).clamp_(0, 1)
        if self.levels is not None:
            x_adv.mul_(self.levels - 1).round_().div_(self.levels - 1)
        return state.replace(
            x_adv=x_adv,
            length=length,
            step=state.step + 1,
            finished=state.finished | (state.step >= self.steps),
        )
