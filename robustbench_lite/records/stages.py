"""What the stages of a suite have come to, as a record holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.records.encoding import unpack_ints
from robustbench_lite.records.schema import Sparse


class StageTally(Sparse):
    """What one stage of a suite has seen, broken and cost, over all samples."""

    stage: int = Field(ge=0)
    """Its place in the plan of the suite; stages that were not called for are left out."""
    seen: int = Field(ge=0)
    broken: int = Field(ge=0)
    forward: int = Field(ge=0)
    backward: int = Field(ge=0)


class Spent(NamedTuple):
    """Passes through the network, over all samples."""

    forward: int
    backward: int


class StageArrays(NamedTuple):
    """Which stage of a suite broke what."""

    broken_by: NDArray[np.int32]
    """The number of the stage, -1 where none did, (N,)."""
    tallies: tuple[StageTally, ...]
    """Of the stages that ran, in their order."""

    @classmethod
    def unpack(
        cls, broken_by: str | None, tallies: Sequence[StageTally] | None, n: int
    ) -> StageArrays | None:
        """Read what a record says of ``n`` samples; None where it says nothing of stages."""
        if broken_by is None and tallies is None:
            return None
        return cls(unpack_ints(broken_by or "", n), tuple(tallies or ()))

    def adds_up(self, broken: NDArray[np.bool_], spent: Spent, planned: int) -> bool:
        """Tell whether the stages agree with each other and with the samples.

        Args:
            broken: the samples that are broken, (N,).
            spent: on all of them.
            planned: how many stages the suite has.
        """
        by, tallies = self
        numbers = [tally.stage for tally in tallies]
        return (
            numbers == sorted(set(numbers))
            and max(numbers, default=0) < planned
            and np.array_equal(by >= 0, broken)
            and set(by[by >= 0].tolist()) <= set(numbers)
            and all(int((by == tally.stage).sum()) == tally.broken for tally in tallies)
            and sum(tally.forward for tally in tallies) == spent.forward
            and sum(tally.backward for tally in tallies) == spent.backward
        )
