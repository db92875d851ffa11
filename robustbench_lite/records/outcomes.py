"""The outcomes of a cell, as arrays and as the text that a record holds.

Figures are derived from them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.records.encoding import (
    pack_bits,
    pack_numbers,
    unpack_bits,
    unpack_floats,
    unpack_ints,
)
from robustbench_lite.records.schema import Sparse
from robustbench_lite.records.stages import Spent, StageArrays, StageTally
from robustbench_lite.records.statistics import WilsonInterval, wilson


class Outcomes(Sparse):
    """One entry a sample, in the order of the ids.

    See :mod:`robustbench_lite.records.encoding` for the encoding.
    """

    clean_correct: str
    broken: str
    """Correct before, at the attack's goal after, confirmed by the judge."""
    distance: str
    """float32; size of the found perturbation, 0 where the clean image is wrong already, NaN where
    none was found.
    """
    forward_queries: str
    backward_queries: str
    unconfirmed: int = 0
    """Successes that the search reported and the judge did not see again; they count as robust."""
    certified: str | None = None
    """Proved robust; only in cells with a certifier."""
    broken_by: str | None = None
    """int32; the stage of a suite that broke the sample, -1 for none; only in cells of suites."""
    stages: list[StageTally] | None = None
    """What the stages have come to; only in cells of suites."""


class Margins(Sparse):
    """How near to a tie the verdicts of a cell came.

    Differences of logits, in shares of the largest logit at that point.

    Kernels of another torch or machine differ by about 1e-6 of that: a verdict above tells that
    much more than rounding.
    """

    clean: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """The smallest size of a margin on a clean image."""
    judged: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """The smallest size of a margin at which the judge confirmed or refused a claim; left out where
    nothing was claimed.
    """

    @classmethod
    def of(cls, clean: float | None, judged: float) -> Margins:
        """To three digits; ``judged`` is inf where nothing was claimed."""
        return cls(
            **{
                name: float(f"{value:.3g}")
                for name, value in (("clean", clean), ("judged", judged))
                if value is not None and math.isfinite(value)
            }
        )


class Summary(Sparse):
    """Derived from the outcomes and checked against them whenever a record is read."""

    n: int
    clean_accuracy: float
    robust_accuracy: float
    robust_interval: tuple[float, float]
    certified_accuracy: float | None = None
    certified_interval: tuple[float, float] | None = None


class Queries(NamedTuple):
    """Passes through the network a sample, on average."""

    forward: float
    backward: float


class CellArrays:
    """The outcomes of a cell as arrays of N samples, with the figures derived from them."""

    def __init__(
        self,
        clean_correct: NDArray[np.bool_],
        broken: NDArray[np.bool_],
        distance: NDArray[np.float32],
        forward_queries: NDArray[np.int32],
        backward_queries: NDArray[np.int32],
        unconfirmed: int = 0,
        certified: NDArray[np.bool_] | None = None,
        staged: StageArrays | None = None,
    ) -> None:
        self.clean_correct = clean_correct
        self.broken = broken
        self.distance = distance
        self.forward_queries = forward_queries
        self.backward_queries = backward_queries
        self.unconfirmed = unconfirmed
        self.certified = certified
        self.staged = staged

    @property
    def n(self) -> int:
        return len(self.clean_correct)

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Correct before and after the attack, (N,)."""
        return self.clean_correct & ~self.broken

    @property
    def clean_accuracy(self) -> float:
        return float(self.clean_correct.mean()) if self.n else math.nan

    @property
    def robust_accuracy(self) -> float:
        return float(self.robust.mean()) if self.n else math.nan

    @property
    def interval(self) -> WilsonInterval:
        """The 95 % Wilson interval of the robust accuracy."""
        return wilson(int(self.robust.sum()), self.n)

    @property
    def certified_accuracy(self) -> float | None:
        """``None`` where nothing was to be certified."""
        return (
            None if self.certified is None else float(self.certified.mean()) if self.n else math.nan
        )

    @property
    def certified_interval(self) -> WilsonInterval | None:
        """The 95 % Wilson interval of the certified accuracy."""
        return None if self.certified is None else wilson(int(self.certified.sum()), self.n)

    @property
    def median_distance(self) -> float | None:
        """Over the samples that were correct; ``None`` when fewer than half of them were broken."""
        attacked = self.distance[self.clean_correct]
        if not len(attacked):
            return None
        median = float(np.median(np.where(np.isnan(attacked), np.inf, attacked)))
        return median if math.isfinite(median) else None

    def mean_queries(self) -> Queries:
        """Queries a sample that was attacked; 0 where none was."""
        attacked = self.clean_correct
        if not attacked.any():
            return Queries(0.0, 0.0)
        return Queries(
            forward=float(self.forward_queries[attacked].mean()),
            backward=float(self.backward_queries[attacked].mean()),
        )

    def pack(self) -> Outcomes:
        return Outcomes(
            clean_correct=pack_bits(self.clean_correct),
            broken=pack_bits(self.broken),
            distance=pack_numbers(self.distance),
            forward_queries=pack_numbers(self.forward_queries),
            backward_queries=pack_numbers(self.backward_queries),
            unconfirmed=self.unconfirmed,
            certified=None if self.certified is None else pack_bits(self.certified),
            broken_by=None if self.staged is None else pack_numbers(self.staged.broken_by),
            stages=None if self.staged is None else list(self.staged.tallies),
        )

    @classmethod
    def unpack(cls, outcomes: Outcomes, n: int) -> CellArrays:
        return cls(
            unpack_bits(outcomes.clean_correct, n),
            unpack_bits(outcomes.broken, n),
            unpack_floats(outcomes.distance, n),
            unpack_ints(outcomes.forward_queries, n),
            unpack_ints(outcomes.backward_queries, n),
            outcomes.unconfirmed,
            None if outcomes.certified is None else unpack_bits(outcomes.certified, n),
            StageArrays.unpack(outcomes.broken_by, outcomes.stages, n),
        )

    def stages_agree(self, planned: int | None) -> bool:
        """Whether what the stages say adds up to what is said of the samples.

        Args:
            planned: how many stages the suite has; None for an attack that is none.
        """
        if self.staged is None or planned is None:
            return self.staged is None and planned is None
        spent = (int(self.forward_queries.sum()), int(self.backward_queries.sum()))
        return self.staged.adds_up(self.broken, Spent(*spent), planned)

    def summary(self) -> Summary:
        return Summary(
            n=self.n,
            clean_accuracy=self.clean_accuracy,
            robust_accuracy=self.robust_accuracy,
            robust_interval=self.interval,
            certified_accuracy=self.certified_accuracy,
            certified_interval=self.certified_interval,
        )
