"""What the engine knows of each row in flight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.search.attack import State
from robustbench_lite.search.rows import Rows


@dataclass(frozen=True)
class Slots(Rows):
    """B rows in flight."""

    position: Tensor
    index: Tensor
    restart: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    best: Tensor
    best_size: Tensor
    forward: Tensor
    backward: Tensor
    unasked: Tensor
    wins: Tensor
    """Votes of a random model for ``best``."""
    done: Tensor
    fault: Tensor
    """Largest excess of a point that a fixed-eps attack claimed; NaN when the model's output was not finite."""
    state: State

    @classmethod
    def fresh(
        cls,
        position: Tensor,
        index: Tensor,
        x: Tensor,
        y: Tensor,
        target: Tensor,
        state: State,
    ) -> Slots:
        """Rows that have asked nothing yet, and found nothing."""
        zeros = torch.zeros_like(y)
        inf = torch.full(y.shape, float("inf"), device=y.device)
        return cls(
            position=position,
            index=index,
            restart=zeros,
            x=x,
            y=y,
            target=target,
            best=x.clone(),
            best_size=inf,
            forward=zeros.clone(),
            backward=zeros.clone(),
            unasked=zeros.bool(),
            wins=zeros.clone(),
            done=zeros.bool(),
            fault=-inf,
            state=state,
        )
