"""Measure one cell: search, have every success judged, write it down, continue where an earlier run
stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import ContradictionError
from robustbench_lite.evaluation.job import Job
from robustbench_lite.model.passes import Passes
from robustbench_lite.records.journal import Journal, Outcome, image_bytes, image_from_bytes
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.task import Outcome as Found
from robustbench_lite.search.task import Task

_FLUSH_SECONDS = 2.0
"""At most this much finished work waits for the judge and the journal."""


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
    known = {
        outcome.position: outcome for outcome in journal.outcomes(job.key, len(job.scene.data))
    }
    nearest = journal.nearest(job.key) if known else math.inf
    if (
        job.terms.keep_adversarials
    ):  # an earlier run may have kept none: those samples are searched again
        known = {
            p: outcome
            for p, outcome in known.items()
            if outcome.x_adv is not None or not outcome.broken
        }
    open_rows = job.scene.open_rows.clone()
    open_rows[torch.tensor(list(known), dtype=torch.int64)] = False
    positions = open_rows.nonzero().squeeze(1)
    settled = len(job.scene.data) - len(positions)
    skipped = int((~job.scene.open_rows).sum())
    _contradict(job, list(known.values()))
    on_rows(settled)
    passes = Passes(
        job.scene.model, job.terms.batch_size, job.terms.seed, adaptive=job.adaptive, fast=True
    )

    def take(batches: Iterator[_Batch]) -> None:
        nonlocal nearest, known
        for judged, seconds in batches:
            _contradict(job, judged.outcomes)
            nearest = None if nearest is None else min(nearest, judged.nearest)
            journal.add(job.key, judged.outcomes, seconds, nearest)
            known |= {outcome.position: outcome for outcome in judged.outcomes}
            on_rows(len(known) + skipped)

    take(_search(job, passes, positions, lambda done: on_rows(settled + done)))
    take(_search(job, passes.as_given(), _refuted(job, known), lambda done: None))
    margins = None if nearest is None else Margins.of(job.scene.clean.nearest, nearest)
    return Measured(
        _arrays(job, known),
        _adversarials(job, known),
        journal.seconds(job.key),
        passes.paths,
        margins,
    )


def _refuted(job: Job, known: dict[int, Outcome]) -> Tensor:
    """Samples that a quicker way through the network has broken, and the network itself, by
    rounding, not: (M,).

    It is searched there once more. A row that left at such a point would count as robust on one
    machine, and as broken, a few steps later, on another. A random model has voted on its points,
    and a budget is spent: there the first search stands.
    """
    if job.scene.model.traits.random or job.terms.query_budget is not None:
        return torch.zeros(0, dtype=torch.int64)
    return torch.tensor(
        [p for p, outcome in sorted(known.items()) if outcome.unconfirmed], dtype=torch.int64
    )


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
                f"{job.attack.name} broke it (distance "
                f"{outcome.distance:.6g}, {norm} {eps:g}; the judge has confirmed it). Either the "
                "bound is unsound or the network that was proved is not the one that was attacked: "
                "no number of this run "
                "can be trusted until that is found. Please report it with the command."
            )


class _Judged(NamedTuple):
    outcomes: list[Outcome]
    nearest: float
    """The smallest closeness of a claim that was judged; inf where there was none."""


class _Batch(NamedTuple):
    """What a search has come to since the one before, and how long it took."""

    judged: _Judged
    seconds: float


def _search(
    job: Job, passes: Passes, positions: Tensor, on_done: Callable[[float], None]
) -> Iterator[_Batch]:
    """Search the samples at ``positions``, in batches that the judge has seen."""
    engine = _engine(job, passes)
    judge = Judge(passes, job.scene.threat, job.attack.name, job.terms.device)
    task = Task(job.scene.data.x, job.scene.data.y, job.scene.target, job.scene.data.ids, positions)
    waiting: list[Found] = []
    flushed = time.perf_counter()
    for found in engine.search(task, on_done):
        waiting.append(found)
        if (
            sum(len(f.position) for f in waiting) >= job.terms.batch_size
            or time.perf_counter() - flushed > _FLUSH_SECONDS
        ):
            judged = _judge(job, judge, waiting)
            now = time.perf_counter()
            yield _Batch(judged, now - flushed)
            waiting = []
            flushed = now
    if waiting:
        judged = _judge(job, judge, waiting)
        yield _Batch(judged, time.perf_counter() - flushed)


def _engine(job: Job, passes: Passes) -> Engine | DrivenEngine:
    terms = job.terms
    threat = job.scene.threat
    options: _Options = {
        "seed": terms.seed,
        "query_budget": terms.query_budget,
        "device": terms.device,
    }
    if isinstance(job.attack, DrivenAttack):
        return DrivenEngine(job.attack, passes, threat, **options)
    return Engine(job.attack, passes, threat, **options)


class _Options(TypedDict):
    seed: int
    query_budget: int | None
    device: torch.device


def _judge(job: Job, judge: Judge, waiting: list[Found]) -> _Judged:
    """What is to be written down of rows that left the engine."""
    first, *rest = waiting
    for other in rest:
        first = first.append(other)
    position = first.position.cpu()
    claimed = first.claimed.cpu()
    rows = position[claimed]
    x_adv = first.x_adv[first.claimed]
    data = job.scene.data
    verdict = judge.confirm(
        x_adv, data.x[rows], data.y[rows], job.scene.target[rows], data.ids[rows]
    )
    size = torch.full((len(position),), float("nan"), dtype=torch.float64)
    size[claimed] = torch.where(verdict.confirmed, verdict.size, float("nan"))
    broken = torch.zeros_like(claimed)
    broken[claimed] = verdict.confirmed
    images = (
        dict(zip(rows.tolist(), x_adv.cpu().numpy(), strict=True))
        if job.terms.keep_adversarials
        else {}
    )
    refuted = first.found.cpu() & ~broken
    columns = (position, broken, refuted, size, first.forward.cpu(), first.backward.cpu())
    nearest = float(verdict.closeness.min()) if len(rows) else math.inf
    outcomes = [
        Outcome(
            p,
            b,
            r,
            float(np.float32(s)) if b else None,
            f,
            g,
            image_bytes(images[p]) if b and p in images else None,
        )
        for p, b, r, s, f, g in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return _Judged(outcomes, nearest)


def _arrays(job: Job, known: dict[int, Outcome]) -> CellArrays:
    n = len(job.scene.data)
    clean = job.scene.clean.correct.numpy()
    broken = np.zeros(n, dtype=np.bool_)
    distance = np.where(clean, np.float32("nan"), np.float32(0)).astype(np.float32)
    forward = np.zeros(n, dtype=np.int32)
    backward = np.zeros(n, dtype=np.int32)
    certified = None if job.scene.certified is None else job.scene.certified.numpy()
    for position, outcome in known.items():
        broken[position] = outcome.broken
        distance[position] = np.nan if outcome.distance is None else outcome.distance
        forward[position] = outcome.forward
        backward[position] = outcome.backward
    return CellArrays(
        clean,
        broken,
        distance,
        forward,
        backward,
        sum(o.unconfirmed for o in known.values()),
        certified,
    )


def _adversarials(job: Job, known: dict[int, Outcome]) -> Tensor | None:
    if not job.terms.keep_adversarials:
        return None
    x_adv = job.scene.data.x.clone()
    for position, outcome in known.items():
        if outcome.broken and outcome.x_adv is not None:
            x_adv[position] = torch.from_numpy(
                image_from_bytes(outcome.x_adv, tuple(x_adv.shape[1:]))
            )
    return x_adv
