"""What is known of the results of a network's calls while its program is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor

from robustbench_lite.model.fast.neighbours.program import BranchCrossing
from robustbench_lite.model.fast.windows.pixels import Axes


@dataclass(frozen=True, eq=False)
class Windowed:
    """A tensor that depends on the image, whose windows are known."""

    number: int
    probe: Tensor
    """What it is on the probe images, as a map where ``flat``."""
    axes: Axes | None
    clear: bool = True
    """Nothing changes beyond the edges."""
    flat: bool = False
    """The map of that number, as vectors."""
    front: tuple[Callable[[Tensor], Tensor], ...] | None = None
    """For the image: what has happened to each of its pixels since."""

    @property
    def shown(self) -> Tensor:
        """The probe as the network has it."""
        return self.probe.flatten(1) if self.flat else self.probe

    def crossing(self, measured: bool) -> BranchCrossing:
        """Hand it to the rest; ``measured``: nothing but its shape is asked for."""
        front = None if self.front is None else chain(self.front)
        return BranchCrossing(self.number, self.axes, front, self.flat, measured)


@dataclass(frozen=True, eq=False)
class Fact:
    """What depends on no image, or on its shape alone."""

    value: Any
    fixed: bool
    """On no shape either."""


def chain(functions: Sequence[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    """Do one after the other; with none of them, give back the first argument."""
    if not functions:
        return lambda *x: x[0]
    first, *later = functions
    return lambda *x: reduce(lambda y, function: function(y), later, first(*x))
