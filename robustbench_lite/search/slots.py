"""What the engine knows of each row in flight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_lite.rows.rows import Rows
from robustbench_lite.search.attack import State


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
    """Largest excess of a point that a fixed-eps attack claimed; NaN when the model's output was
    not finite.
    """
    state: State
