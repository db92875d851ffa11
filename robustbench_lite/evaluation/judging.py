"""Search the samples of a job, in batches that the judge has seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.evaluation.job import Job
from robustbench_lite.model.passes import Passes
from robustbench_lite.records.samples import NearMiss, Outcome, image_bytes
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.task import SearchOutcome, Task

_FLUSH_SECONDS = 2.0
"""At most this much finished work waits for the judge and the journal."""


class Judged(NamedTuple):
    """What the judge says of rows that left the engine."""

    outcomes: list[Outcome]
    nearest: float
    """The smallest closeness of a claim that was judged; inf where there was none."""
    misses: list[NearMiss]
    """How near those came that are not broken, where somebody wants to know."""


class JudgedBatch(NamedTuple):
    """What a search has come to since the one before, and how long it took."""

    judged: Judged
    seconds: float


def search_rows(
    job: Job, passes: Passes, positions: Tensor, on_done: Callable[[float], None]
) -> Iterator[JudgedBatch]:
    """Search the samples at ``positions`` (M,), in batches that the judge has seen.

    ``on_done`` hears how many samples' worth of work is done.
    """
    engine = _engine(job, passes)
    judge = Judge(passes, job.scene.threat, job.attack.name, job.terms.device)
    data = job.scene.data
    task = Task(data.x, data.y, job.scene.target, data.ids, positions)
    if job.part is not None:
        task = replace(
            task,
            start=job.part.start,
            spent=job.part.spent,
            first_restart=job.part.draw,
            keep_lowest=job.part.keep_lowest,
        )
    waiting: list[SearchOutcome] = []
    flushed = time.perf_counter()
    for found in engine.search(task, on_done):
        waiting.append(found)
        enough = sum(len(one.position) for one in waiting) >= job.terms.batch_size
        if enough or time.perf_counter() - flushed > _FLUSH_SECONDS:
            judged = _judge(job, judge, waiting)
            now = time.perf_counter()
            yield JudgedBatch(judged, now - flushed)
            waiting = []
            flushed = now
    if waiting:
        judged = _judge(job, judge, waiting)
        yield JudgedBatch(judged, time.perf_counter() - flushed)


def _engine(job: Job, passes: Passes) -> Engine | DrivenEngine:
    """The engine that works the attack of ``job``."""
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


def _judge(job: Job, judge: Judge, waiting: list[SearchOutcome]) -> Judged:
    """Have the judge say which of the rows that left the engine are broken, and write that down."""
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
    images: dict[int, NDArray[np.float32]] = {}
    if job.terms.keep_adversarials:
        images = dict(zip(rows.tolist(), x_adv.cpu().numpy(), strict=True))
    refuted = first.found.cpu() & ~broken
    columns = (position, broken, refuted, size, first.forward.cpu(), first.backward.cpu())
    nearest = float(verdict.closeness.min()) if len(rows) else math.inf
    samples = zip(*(column.tolist() for column in columns), strict=True)
    outcomes = [_outcome(images, *sample) for sample in samples]
    return Judged(outcomes, nearest, _misses(first, position, broken))


def _misses(found: SearchOutcome, position: Tensor, broken: Tensor) -> list[NearMiss]:
    """The nearest points of rows that are not ``broken``; none where the search kept none."""
    if found.lowest.dim() < 4:
        return []
    rows = (~broken & found.lowest_margin.cpu().isfinite()).nonzero().squeeze(1)
    images = found.lowest.cpu()[rows].numpy()
    margins = found.lowest_margin.cpu()[rows].tolist()
    columns = zip(position[rows].tolist(), margins, images, strict=True)
    return [NearMiss(at, margin, image_bytes(image)) for at, margin, image in columns]


def _outcome(
    images: Mapping[int, NDArray[np.float32]],
    position: int,
    broken: bool,
    refuted: bool,
    size: float,
    forward: int,
    backward: int,
) -> Outcome:
    """One sample; its distance as float32 has it, and its image where it is among ``images``."""
    distance = float(np.float32(size)) if broken else None
    x_adv = image_bytes(images[position]) if broken and position in images else None
    return Outcome(position, broken, refuted, distance, forward, backward, x_adv)
