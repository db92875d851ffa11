"""Measure one cell: search, have every success judged, write it down, continue where an earlier run stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import ContradictionError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.journal import Journal, Outcome, image_bytes, image_from_bytes
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.rows.losses import margin, relative
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.engine import Engine, Task
from robustbench_lite.search.engine import Outcome as Found
from robustbench_lite.search.judge import Judge
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel

AUDIT = 8
"""Of the certified samples those are attacked all the same whose index it divides: an unsound bound shows there."""
_FLUSH_SECONDS = 2.0
"""At most this much finished work waits for the judge and the journal."""


@dataclass(frozen=True)
class Job:
    """Everything that one cell needs. ``clean_correct`` and ``target`` (-1: none) have one entry a sample of ``data``."""

    key: str
    model: DefendedModel
    attack: Attack
    threat: ThreatModel
    data: Dataset
    clean_correct: Tensor
    target: Tensor
    seed: int
    batch_size: int
    device: torch.device
    behaviour: Behaviour
    """What ``model`` answers on probe images: nothing is continued that another network has left."""
    query_budget: int | None = None
    keep_adversarials: bool = False
    adaptive: bool = True
    """False for an attacker that ignores what the model declares; the judge never does."""
    certified: Tensor | None = None
    """Proved robust, (N,) bool: such samples are not attacked but for some that check the proofs."""
    nearest_clean: float | None = None
    """The smallest ``Clean.closeness``, for the record."""

    def __post_init__(self) -> None:
        if self.certified is not None and bool((self.certified & ~self.clean_correct).any()):
            raise ValueError("A sample that is classified wrong cannot be certified.")

    @property
    def open_rows(self) -> Tensor:
        """Samples that are attacked, (N,) bool."""
        if self.certified is None:
            return self.clean_correct
        return self.clean_correct & (~self.certified | (self.data.ids % AUDIT == 0))


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


class Clean(NamedTuple):
    """What a model says of N clean images, on the CPU."""

    logits: Tensor
    """(N, K)."""
    correct: Tensor
    """(N,) bool; by a majority of votes if it is random."""
    closeness: Tensor
    """Size of the margin that decides, in shares of the row's largest logit, (N,): see ``search.judge.Finding``."""

    @property
    def nearest(self) -> float | None:
        return float(self.closeness.min()) if len(self.closeness) else None


def clean_logits(model: DefendedModel, data: Dataset, batch_size: int, device: torch.device, seed: int) -> Clean:
    """Ask ``model`` about the clean images of ``data``, a batch at a time."""
    passes = Passes(model, batch_size, seed)
    votes = model.traits.votes if model.traits.random else 1
    logits, correct, closeness = [], [], []
    for start in range(0, len(data), batch_size):
        part = slice(start, start + batch_size)
        y = data.y[part].to(device)
        none = torch.full_like(y, -1)
        points = Points(data.x[part].to(device), y, none, data.ids[part].to(device), torch.zeros_like(y))
        ballots = list(passes.ballots(points, votes))  # an abstention on a clean image is wrong
        margins = [margin(ballot, y, none) for ballot in ballots]
        right = (torch.stack(margins) > 0).sum(0) * 2 > votes
        shares = torch.stack([relative(*pair) for pair in zip(margins, ballots, strict=True)])
        logits.append(torch.stack(ballots).mean(0).cpu())
        correct.append(right.cpu())
        closeness.append(shares.sort(0, descending=True).values[votes // 2].abs().cpu())
    return Clean(torch.cat(logits)[:, : -1 if model.traits.abstains else None], torch.cat(correct), torch.cat(closeness))


def measure(job: Job, journal: Journal, on_rows: Callable[[float], None] = lambda rows: None) -> Measured:
    """Run what is missing of ``job``; ``on_rows`` hears how many samples' worth of work is done, of ``len(job.data)``."""
    known = {outcome.position: outcome for outcome in journal.outcomes(job.key, len(job.data))}
    nearest = journal.nearest(job.key) if known else math.inf
    if job.keep_adversarials:  # an earlier run may have kept none: those samples are searched again
        known = {p: outcome for p, outcome in known.items() if outcome.x_adv is not None or not outcome.broken}
    open_rows = job.open_rows.clone()
    open_rows[torch.tensor(list(known), dtype=torch.int64)] = False
    positions = open_rows.nonzero().squeeze(1)
    settled, skipped = len(job.data) - len(positions), int((~job.open_rows).sum())
    _contradict(job, list(known.values()))
    on_rows(settled)
    passes = Passes(job.model, job.batch_size, job.seed, adaptive=job.adaptive, fast=True)

    def take(batches: Iterator[_Batch]) -> None:
        nonlocal nearest, known
        for batch in batches:
            _contradict(job, batch.outcomes)
            nearest = None if nearest is None else min(nearest, batch.nearest)
            journal.add(job.key, batch.outcomes, batch.seconds, nearest)
            known |= {outcome.position: outcome for outcome in batch.outcomes}
            on_rows(len(known) + skipped)

    take(_search(job, passes, positions, lambda done: on_rows(settled + done)))
    take(_search(job, passes.as_given(), _refuted(job, known), lambda done: None))
    margins = None if nearest is None else Margins.of(job.nearest_clean, nearest)
    return Measured(_arrays(job, known), _adversarials(job, known), journal.seconds(job.key), passes.paths, margins)


def _refuted(job: Job, known: dict[int, Outcome]) -> Tensor:
    """Samples that a quicker way through the network has broken, and the network itself, by rounding, not: (M,).

    It is searched there once more. A row that left at such a point would count as robust on one machine, and as broken, a few
    steps later, on another. A random model has voted on its points, and a budget is spent: there the first search stands.
    """
    if job.model.traits.random or job.query_budget is not None:
        return torch.zeros(0, dtype=torch.int64)
    return torch.tensor([p for p, outcome in sorted(known.items()) if outcome.unconfirmed], dtype=torch.int64)


def _contradict(job: Job, outcomes: list[Outcome]) -> None:
    """Raise if one of ``outcomes`` is broken although it is certified."""
    if job.certified is None:
        return
    for outcome in outcomes:
        if outcome.broken and bool(job.certified[outcome.position]):
            raise ContradictionError(
                f"Sample {int(job.data.ids[outcome.position])} is certified, and {job.attack.name} broke it (distance "
                f"{outcome.distance:.6g}, {job.threat.norm.name} {job.threat.eps:g}; the judge has confirmed it). Either the "
                "bound is unsound or the network that was proved is not the one that was attacked: no number of this run "
                "can be trusted until that is found. Please report it with the command."
            )


@dataclass(frozen=True)
class _Batch:
    outcomes: list[Outcome]
    nearest: float
    """The smallest closeness of a claim that was judged; inf where there was none."""
    seconds: float


def _search(job: Job, passes: Passes, positions: Tensor, on_done: Callable[[float], None]) -> Iterator[_Batch]:
    """Search the samples at ``positions``, in batches that the judge has seen."""
    engine = _engine(job, passes)
    judge = Judge(passes, job.threat, job.attack.name, job.device)
    task = Task(job.data.x, job.data.y, job.target, job.data.ids, positions)
    waiting: list[Found] = []
    flushed = time.perf_counter()
    for found in engine.search(task, on_done):
        waiting.append(found)
        if sum(len(f.position) for f in waiting) >= job.batch_size or time.perf_counter() - flushed > _FLUSH_SECONDS:
            judged, now = _judged(job, judge, waiting), time.perf_counter()
            yield _Batch(*judged, now - flushed)
            waiting, flushed = [], now
    if waiting:
        yield _Batch(*_judged(job, judge, waiting), time.perf_counter() - flushed)


def _engine(job: Job, passes: Passes) -> Engine | DrivenEngine:
    if isinstance(job.attack, DrivenAttack):
        budget = job.query_budget
        return DrivenEngine(job.attack, passes, job.threat, seed=job.seed, query_budget=budget, device=job.device)
    return Engine(job.attack, passes, job.threat, seed=job.seed, query_budget=job.query_budget, device=job.device)


def _judged(job: Job, judge: Judge, waiting: list[Found]) -> tuple[list[Outcome], float]:
    """What is written down of rows that left the engine, and how near to a tie the nearest of their claims is."""
    first, *rest = waiting
    for other in rest:
        first = first.append(other)
    position = first.position.cpu()
    claimed = first.claimed.cpu()
    rows = position[claimed]
    x_adv = first.x_adv[first.claimed]
    verdict = judge.confirm(x_adv, job.data.x[rows], job.data.y[rows], job.target[rows], job.data.ids[rows])
    size = torch.full((len(position),), float("nan"), dtype=torch.float64)
    size[claimed] = torch.where(verdict.confirmed, verdict.size, float("nan"))
    broken = torch.zeros_like(claimed)
    broken[claimed] = verdict.confirmed
    images = dict(zip(rows.tolist(), x_adv.cpu().numpy(), strict=True)) if job.keep_adversarials else {}
    refuted = first.found.cpu() & ~broken
    columns = (position, broken, refuted, size, first.forward.cpu(), first.backward.cpu())
    nearest = float(verdict.closeness.min()) if len(rows) else math.inf
    outcomes = [
        Outcome(p, b, r, float(np.float32(s)) if b else None, f, g, image_bytes(images[p]) if b and p in images else None)
        for p, b, r, s, f, g in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return outcomes, nearest


def _arrays(job: Job, known: dict[int, Outcome]) -> CellArrays:
    n = len(job.data)
    clean = job.clean_correct.numpy()
    broken = np.zeros(n, dtype=np.bool_)
    distance = np.where(clean, np.float32("nan"), np.float32(0)).astype(np.float32)
    forward, backward = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)
    certified = None if job.certified is None else job.certified.numpy()
    for position, outcome in known.items():
        broken[position] = outcome.broken
        distance[position] = np.nan if outcome.distance is None else outcome.distance
        forward[position], backward[position] = outcome.forward, outcome.backward
    return CellArrays(clean, broken, distance, forward, backward, sum(o.unconfirmed for o in known.values()), certified)


def _adversarials(job: Job, known: dict[int, Outcome]) -> Tensor | None:
    if not job.keep_adversarials:
        return None
    x_adv = job.data.x.clone()
    for position, outcome in known.items():
        if outcome.broken and outcome.x_adv is not None:
            x_adv[position] = torch.from_numpy(image_from_bytes(outcome.x_adv, tuple(x_adv.shape[1:])))
    return x_adv
