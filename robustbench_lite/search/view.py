"""The model as an attack that drives it sees it: every call is a question of the sample's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.lanes import Lane, Request
from robustbench_lite.search.query import Access


@dataclass(eq=False)
class InFlight:
    """A sample that is searched, on the CPU."""

    position: int
    """Its row in the task."""
    index: int
    """Its place in the data set."""
    x: Tensor
    y: Tensor
    target: Tensor
    best: Tensor
    """The nearest adversarial so far, (1, C, H, W), or the clean image."""
    best_size: float = float("inf")
    forward: int = 0
    backward: int = 0
    spent: int = 0
    """Queries that counted against its budget before."""
    lane: Lane = field(init=False)

    @property
    def found(self) -> bool:
        """There is an adversarial."""
        return self.best_size < float("inf")

    def keep_nearest(self, x_adv: Tensor, size: Tensor) -> None:
        """Keep the nearest of some points, if it is nearer than the best so far.

        Args:
            x_adv: points, (M, C, H, W).
            size: their distances, (M,); inf for those that are no success.
        """
        nearest = int(size.argmin())
        if float(size[nearest]) < self.best_size:
            self.best = x_adv[nearest].unsqueeze(0).cpu()
            self.best_size = float(size[nearest])


class View(nn.Module):
    """The model as the attack on one sample may see it."""

    def __init__(self, row: InFlight, attack: Attack) -> None:
        super().__init__()
        self.row = row
        self.attack = attack
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return _Call.apply(x, self.row, self.attack)  # type: ignore[no-any-return]


class _Call(torch.autograd.Function):
    """Logits by asking; their gradient by asking again when it is wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: InFlight, attack: Attack) -> Tensor:
        ctx.row = row
        ctx.attack = attack
        ctx.draw = row.forward
        ctx.save_for_backward(x)
        return row.lane.ask(Request(x.detach().clone(), row.forward))

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None]:
        if ctx.attack.access < Access.GRADIENT:
            raise AttackError(
                f"{ctx.attack.name} asked for GRADIENT but declares access = "
                f"{ctx.attack.access.name}: raise its declared access or ask for less."
            )
        (x,) = ctx.saved_tensors
        request = Request(x.detach().clone(), ctx.draw, weights[0].clone())
        return ctx.row.lane.ask(request), None, None
