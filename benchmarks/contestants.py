"""Who takes part in a comparison, and what its runs came to."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness import broken
from torch import Tensor, nn

from robustbench_lite.threat.norms import norm_by_name

Prepare = Callable[[nn.Module, Tensor], Any]
"""What comes once a network: (model, x) -> what ``Contestant.run`` takes as its model."""


@dataclass
class Contestant:
    """A toolkit's attack, with the figures of all its runs."""

    name: str
    run: Callable[[Any, Tensor, Tensor], Tensor]  # the model is what `prepare` makes
    prepare: Prepare = lambda model, x: model
    seconds: list[float] = field(default_factory=list)
    evaluations: float = float("nan")
    robust: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)

    def note(self, model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, norm: str) -> None:
        """Note what one run found: robust accuracy, and the median distance over all images."""
        hit = broken(model, x_adv, y)
        self.robust.append(1 - float(hit.float().mean()))
        distance = norm_by_name(norm).size(x_adv - x).masked_fill(~hit, float("inf"))
        self.distance.append(float(distance.median()))

    def row(self, first: float) -> dict[str, float | str]:
        """Write the line of the table; ``first``: the seconds of the first contestant."""
        return {
            "toolkit": self.name,
            "robust accuracy": statistics.mean(self.robust),
            "median distance": statistics.mean(self.distance),
            "model evaluations a sample": self.evaluations,
            "prepare": median(self.preparing),
            "seconds": median(self.seconds),
            "slower than ours": median(self.seconds) / first,
        }


def median(seconds: list[float]) -> float:
    """Take the median; nan of none."""
    return statistics.median(seconds) if seconds else float("nan")
