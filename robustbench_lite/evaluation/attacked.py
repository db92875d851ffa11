"""The attacked side: which samples are broken, each of them as the judge has seen it.

Outcomes are written down as they come, and an earlier run is continued where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import ContradictionError
from robustbench_lite.evaluation.job import Job
from robustbench_lite.evaluation.judging import JudgedBatch, search_rows
from robustbench_lite.model.passes import Passes
from robustbench_lite.records.journal import Journal
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.records.samples import Outcome, image_from_bytes


@dataclass(frozen=True)
class Measured:
    """The outcome of a job."""

    arrays: CellArrays
    x_adv: Tensor | None
    seconds: float
    paths: tuple[str, ...]
    """What was searched beside the network as it was given."""
    margins: Margins | None
    """How near to a tie its verdicts came; None where nobody knows."""
    stage_seconds: tuple[float, ...] = ()
    """Time of each stage of a suite that ran."""


def measure(
    job: Job, journal: Journal, on_rows: Callable[[float], None] = lambda rows: None
) -> Measured:
    """Run what is missing of ``job``.

    Args:
        job: what is to be measured.
        journal: holds what earlier runs have found, and gets what this one finds.
        on_rows: hears how many samples' worth of work is done, of all that the job has.

    Raises:
        ContradictionError: a sample is certified and broken.
    """
    passes = passes_for(job)
    ledger = search_open(job, passes, journal, on_rows)
    return Measured(
        arrays_of(job, ledger.known.values()),
        adversarials_of(job, ledger.known.values()),
        journal.seconds(job.key),
        passes.paths,
        ledger.margins(),
    )


def passes_for(job: Job) -> Passes:
    """Make the passes that the searches of ``job`` ask with."""
    terms = job.terms
    return Passes(job.scene.model, terms.batch_size, terms.seed, adaptive=job.adaptive, fast=True)


def search_open(
    job: Job, passes: Passes, journal: Journal, on_rows: Callable[[float], None]
) -> Ledger:
    """Search the open samples of ``job`` that nothing is known of yet."""
    ledger = Ledger.read(job, journal)
    missing = ledger.missing()
    settled = len(job.scene.data) - len(missing)
    skipped = int((~job.open_rows).sum())
    on_rows(settled)
    for batch in search_rows(job, passes, missing, lambda done: on_rows(settled + done)):
        ledger.add(batch)
        on_rows(len(ledger.known) + skipped)
    refuted = _refuted(job, ledger.known)
    for batch in search_rows(job, passes.as_given(), refuted, lambda done: None):
        ledger.add(batch)
        on_rows(len(ledger.known) + skipped)
    return ledger


@dataclass
class Ledger:
    """What is known of the samples of a job so far; a batch is added here and to the journal."""

    job: Job
    journal: Journal
    known: dict[int, Outcome]
    """By position."""
    nearest: float | None
    """How near to a tie the nearest claim came; None where an earlier run has not said it."""

    @classmethod
    def read(cls, job: Job, journal: Journal) -> Ledger:
        """Read what earlier runs have found.

        Where images are to be kept and an earlier run has kept none, the sample is searched again.
        """
        outcomes = journal.outcomes(job.key, len(job.scene.data))
        known = {outcome.position: outcome for outcome in outcomes}
        nearest = journal.nearest(job.key) if known else math.inf
        if job.terms.keep_adversarials:
            known = {
                p: outcome
                for p, outcome in known.items()
                if outcome.x_adv is not None or not outcome.broken
            }
        _contradict(job, list(known.values()))
        return cls(job, journal, known, nearest)

    def missing(self) -> Tensor:
        """Positions (M,) of the samples that are still to be searched."""
        known = self.known
        open_rows = self.job.open_rows.clone()
        open_rows[torch.tensor(list(known), dtype=torch.int64)] = False
        return open_rows.nonzero().squeeze(1)

    def add(self, batch: JudgedBatch) -> None:
        """Write down what a search has come to, unless it contradicts a certificate."""
        outcomes = batch.judged.outcomes
        _contradict(self.job, outcomes)
        if self.nearest is not None:
            self.nearest = min(self.nearest, batch.judged.nearest)
        misses = batch.judged.misses
        self.journal.add(self.job.key, outcomes, batch.seconds, self.nearest, misses)
        self.known |= {outcome.position: outcome for outcome in outcomes}

    def margins(self) -> Margins | None:
        """How near to a tie the verdicts came; None where nobody knows."""
        if self.nearest is None:
            return None
        return Margins.of(self.job.scene.clean.nearest, self.nearest)


def _refuted(job: Job, known: dict[int, Outcome]) -> Tensor:
    """Samples (M,) that a quick way through the network has broken, and the network itself not.

    It is searched there once more. A row that left at such a point would count as robust on one
    machine, and as broken, a few steps later, on another. A random model has voted on its points,
    and a budget is spent: there the first search stands.
    """
    if job.scene.model.traits.random or job.terms.query_budget is not None:
        return torch.zeros(0, dtype=torch.int64)
    refuted = [position for position, outcome in sorted(known.items()) if outcome.unconfirmed]
    return torch.tensor(refuted, dtype=torch.int64)


def _contradict(job: Job, outcomes: list[Outcome]) -> None:
    """Raise if one of ``outcomes`` is broken although it is certified."""
    scene = job.scene
    if scene.certified is None:
        return
    for outcome in outcomes:
        if outcome.broken and bool(scene.certified[outcome.position]):
            norm = scene.threat.norm.name
            eps = scene.threat.radius
            raise ContradictionError(
                f"Sample {int(scene.data.ids[outcome.position])} is certified, and "
                f"{job.attack.name} broke it (distance {outcome.distance:.6g}, {norm} {eps:g}; the "
                "judge has confirmed it). Either the bound is unsound or the network that was "
                "proved is not the one that was attacked: no number of this run can be trusted "
                "until that is found. Please report it with the command."
            )


def arrays_of(job: Job, known: Iterable[Outcome]) -> CellArrays:
    """One entry a sample; one that was not broken lies at the distance nan."""
    n = len(job.scene.data)
    clean = job.scene.clean.correct.numpy()
    broken = np.zeros(n, dtype=np.bool_)
    distance = np.where(clean, np.float32("nan"), np.float32(0)).astype(np.float32)
    forward = np.zeros(n, dtype=np.int32)
    backward = np.zeros(n, dtype=np.int32)
    certified = None if job.scene.certified is None else job.scene.certified.numpy()
    unconfirmed = 0
    for outcome in known:
        broken[outcome.position] = outcome.broken
        distance[outcome.position] = np.nan if outcome.distance is None else outcome.distance
        forward[outcome.position] = outcome.forward
        backward[outcome.position] = outcome.backward
        unconfirmed += outcome.unconfirmed
    return CellArrays(clean, broken, distance, forward, backward, unconfirmed, certified)


def adversarials_of(job: Job, known: Iterable[Outcome]) -> Tensor | None:
    """The images (N, C, H, W) that were found, if they are kept; clean ones where none was."""
    if not job.terms.keep_adversarials:
        return None
    x_adv = job.scene.data.x.clone()
    for outcome in known:
        if outcome.broken and outcome.x_adv is not None:
            image = image_from_bytes(outcome.x_adv, tuple(x_adv.shape[1:]))
            x_adv[outcome.position] = torch.from_numpy(image)
    return x_adv
