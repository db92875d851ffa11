"""A suite on one model: its stages in their order, each on what the ones before have left.

Each stage has a place of its own in the journal, so a run that was killed goes on within the stage
in which it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.evaluation.attacked import (
    Ledger,
    Measured,
    adversarials_of,
    arrays_of,
    measure,
    passes_for,
    search_open,
)
from robustbench_lite.evaluation.job import Job, StageTask
from robustbench_lite.records.journal import Journal
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.records.samples import Outcome, image_from_bytes, stage_key
from robustbench_lite.records.stages import StageArrays, StageTally
from robustbench_lite.search.suite import ALARM, Stage, Suite, keeps_lowest

NONE = -1
"""No stage."""


def measure_cell(
    job: Job, journal: Journal, on_rows: Callable[[float], None] = lambda rows: None
) -> Measured:
    """Run what is missing of ``job``, whether its attack is one or a suite: see ``measure``."""
    if isinstance(job.attack, Suite):
        return measure_suite(job, job.attack, journal, on_rows)
    return measure(job, journal, on_rows)


def measure_suite(
    job: Job,
    suite: Suite,
    journal: Journal,
    on_rows: Callable[[float], None] = lambda rows: None,
) -> Measured:
    """Run what is missing of ``job``, whose attack is ``suite``.

    Args:
        job: what is to be measured.
        suite: its attack.
        journal: holds what earlier runs have found, and gets what this one finds.
        on_rows: hears how many samples' worth of work is done, of all that the job has.

    Raises:
        ContradictionError: a sample is certified and broken.
    """
    course = _Course.begin(job, suite.stages(job.scene.threat))
    passes = passes_for(job)
    for number, stage in enumerate(course.stages):
        if stage.when == "alarm" and not bool(course.alarm.any()):
            continue
        part = course.job_of(number)
        ledger = search_open(part, passes, journal, course.listener(number, on_rows))
        course.take(number, ledger, journal)
    return Measured(
        course.arrays(),
        adversarials_of(job, course.broken.values()),
        sum(course.seconds) + journal.seconds(job.key),
        passes.paths,
        course.margins(),
        tuple(course.seconds),
    )


@dataclass
class _Misses:
    """The nearest points to success around samples, of one stage or of several."""

    margin: Tensor
    """(N,); inf where there is none."""
    points: dict[int, Tensor] = field(default_factory=dict)
    """By position, (C, H, W)."""

    @classmethod
    def none(cls, n: int) -> _Misses:
        return cls(torch.full((n,), float("inf"), dtype=torch.float64))

    def keep_lower(self, other: _Misses) -> None:
        """Take over what is nearer in ``other``."""
        lower = other.margin < self.margin
        self.margin[lower] = other.margin[lower]
        self.points |= {at: other.points[at] for at in lower.nonzero().squeeze(1).tolist()}

    def starts(self, x: Tensor) -> Tensor:
        """Say where searches begin: at the image of ``x`` (N, C, H, W) where nothing is known."""
        starts = x.clone()
        for at, point in self.points.items():
            starts[at] = point
        return starts


@dataclass
class _Course:
    """How far a suite has come."""

    job: Job
    stages: Sequence[Stage]
    left: Tensor
    """Samples that no stage has broken, of those that are attacked, (N,) bool."""
    forward: Tensor
    """Queries of all stages, (N,) int64."""
    backward: Tensor
    broken_by: Tensor
    """(N,) int32."""
    lowest: _Misses
    previous: _Misses
    mark: Tensor
    """The lowest margins before the last stage that sees no gradient, (N,)."""
    broken: dict[int, Outcome] = field(default_factory=dict)
    """By position; as the stage that broke the sample has found it."""
    refuted: set[int] = field(default_factory=set)
    """Positions of successes that the judge did not see."""
    tallies: list[StageTally] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nearest: list[float | None] = field(default_factory=list)
    work: float = 0.0
    """Cost of the stages that have ended, in forward passes."""

    @classmethod
    def begin(cls, job: Job, stages: Sequence[Stage]) -> _Course:
        n = len(job.scene.data)
        zeros = torch.zeros(n, dtype=torch.int64)
        return cls(
            job=job,
            stages=stages,
            left=job.scene.open_rows.clone(),
            forward=zeros.clone(),
            backward=zeros.clone(),
            broken_by=torch.full((n,), NONE, dtype=torch.int32),
            lowest=_Misses.none(n),
            previous=_Misses.none(n),
            mark=_Misses.none(n).margin,
        )

    def job_of(self, number: int) -> Job:
        """Make the job of a stage: what is left, from where it is to begin."""
        stage = self.stages[number]
        known = {"previous": self.previous, "lowest": self.lowest}
        start = known[stage.start].starts(self.job.scene.data.x) if stage.start in known else None
        part = StageTask(
            rows=self.alarm if stage.when == "alarm" else self.left.clone(),
            start=start,
            spent=self.forward + self.backward,
            draw=stage.draw,
            keep_lowest=keeps_lowest(self.stages, number),
        )
        key = stage_key(self.job.key, number)
        return replace(self.job, key=key, attack=stage.attack, part=part)

    def take(self, number: int, ledger: Ledger, journal: Journal) -> None:
        """Take over what a stage has come to."""
        stage = self.stages[number]
        seen = list(ledger.known.values())
        found = {outcome.position: outcome for outcome in seen if outcome.broken}
        self.work += stage.cost * len(seen)
        self.seconds.append(journal.seconds(ledger.job.key))
        self.nearest.append(ledger.nearest)
        if not stage.sees_gradients:
            self.mark = self.lowest.margin.clone()
        self._count(number, seen, found)
        self.tallies.append(
            StageTally(
                stage=number,
                seen=len(seen),
                broken=len(found),
                forward=sum(outcome.forward for outcome in seen),
                backward=sum(outcome.backward for outcome in seen),
            )
        )
        self._take_misses(ledger, journal)

    @property
    def alarm(self) -> Tensor:
        """Samples at which gradients mislead where they begin by themselves, (N,) bool."""
        nearer = self.lowest.margin <= (1 - ALARM) * self.mark
        return self.left & self.mark.isfinite() & nearer

    def _count(self, number: int, seen: Sequence[Outcome], found: Mapping[int, Outcome]) -> None:
        """Book what a stage has spent on each sample, and what it broke."""
        self.broken |= found
        self.refuted |= {outcome.position for outcome in seen if outcome.unconfirmed}
        self.refuted -= set(found)
        for outcome in seen:
            self.forward[outcome.position] += outcome.forward
            self.backward[outcome.position] += outcome.backward
        at = torch.tensor(sorted(found), dtype=torch.int64)
        self.left[at] = False
        self.broken_by[at] = number

    def _take_misses(self, ledger: Ledger, journal: Journal) -> None:
        if ledger.job.part is None or not ledger.job.part.keep_lowest:
            return
        shape = tuple(self.job.scene.data.x.shape[1:])
        self.previous = _Misses.none(len(self.left))
        for miss in journal.misses(ledger.job.key, len(self.left)):
            point = torch.from_numpy(image_from_bytes(miss.x, shape))
            self.previous.points[miss.position] = point
            self.previous.margin[miss.position] = miss.margin
        self.lowest.keep_lower(self.previous)

    def listener(self, number: int, on_rows: Callable[[float], None]) -> Callable[[float], None]:
        """Make what hears how many samples of a stage are done, and tells it of the suite.

        The stages to come are taken to see all that is left now.
        """
        n = len(self.left)
        seen = int(self.left.sum())
        own = self.stages[number].cost * seen
        to_come = sum(stage.cost for stage in self.stages[number + 1 :]) * seen
        total = self.work + own + to_come

        def hear(rows: float) -> None:
            done = self.work + own * (rows / n)
            on_rows(n * done / total if total else n)

        return hear

    def arrays(self) -> CellArrays:
        """Write down what became of all samples."""
        found = arrays_of(self.job, self.broken.values())
        found.forward_queries = self.forward.numpy().astype(np.int32)
        found.backward_queries = self.backward.numpy().astype(np.int32)
        found.unconfirmed = len(self.refuted)
        found.staged = StageArrays(self.broken_by.numpy(), tuple(self.tallies))
        return found

    def margins(self) -> Margins | None:
        """How near to a tie the verdicts came; None where nobody knows."""
        known = [one for one in self.nearest if one is not None]
        if len(known) < len(self.nearest):
            return None
        return Margins.of(self.job.scene.clean.nearest, min(known, default=float("inf")))
