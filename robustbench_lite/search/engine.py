"""Continuous batching: a fixed number of slots, each holding one sample; what is done leaves at once and the next one enters.

Rows at different steps share one model call. Nothing that is decided for a row looks at its neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from robustbench_lite.errors import AttackError, ModelError
from robustbench_lite.search.attack import Answer, Attack, Query, State
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.oracle import Cost, Oracle
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.search.rows import Rows
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Task:
    """What is searched: clean images, labels, target classes (-1: none) and data-set indices, each with N rows."""

    x: Tensor
    y: Tensor
    target: Tensor
    index: Tensor
    positions: Tensor | None = None
    """Rows to search, (M,) int64; all when None."""


@dataclass(frozen=True)
class Outcome(Rows):
    """Rows that left the engine. What was found is still to be judged."""

    position: Tensor
    """Row of the task, (M,)."""
    found: Tensor
    x_adv: Tensor
    """The adversarial, or the clean image where none was found."""
    size: Tensor
    """Its distance in the norm of the threat; inf where none was found."""
    forward: Tensor
    backward: Tensor


@dataclass(frozen=True)
class Slots(Rows):
    """The rows in flight."""

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
    wins: Tensor
    """Votes of a random model for ``best``."""
    done: Tensor
    fault: Tensor
    """Largest excess of a point that a fixed-eps attack claimed; NaN when the model's output was not finite."""
    state: State


class Engine:
    """Runs one attack on one model under one threat model. ``search`` yields outcomes as rows finish."""

    #: On an accelerator, look at which rows are done only every few steps: each look waits for the device.
    SETTLE_EVERY = 4
    TELL_SECONDS = 0.25

    def __init__(
        self,
        attack: Attack,
        passes: Passes,
        threat: ThreatModel,
        *,
        seed: int = 0,
        query_budget: int | None = None,
        device: torch.device | str = "cpu",
        free_looks: bool | None = None,
    ) -> None:
        self.attack, self.threat, self.seed, self.query_budget = attack, threat, seed, query_budget
        self.device = torch.device(device)
        self.free_looks = self.device.type == "cpu" if free_looks is None else free_looks
        self.oracle = Oracle(passes, attack, self.free_looks, self.device)
        self.restarts: int = getattr(attack, "restarts", 1)
        self.first_success_ends = threat.eps is not None

    def search(self, task: Task, on_step: Callable[[float], None] | None = None) -> Iterator[Outcome]:
        """Attack the rows of ``task``; they come out in the order in which they finish, each exactly once.

        ``on_step`` hears, a few times a second, how many rows' worth of work is done, rows in flight included.
        """
        positions = range(len(task.y)) if task.positions is None else task.positions.tolist()
        if not len(positions):
            return
        waiting, told = iter(positions), time.monotonic()
        width = self.oracle.rows_at_once(self.threat, tuple(task.x.shape[1:]))
        slots = self._enter(task, waiting, width)
        left, step = len(positions) - len(slots.y), 0
        while len(slots.y):
            slots, query = self._step(slots)
            step += 1
            if on_step is not None and time.monotonic() - told > self.TELL_SECONDS:
                progress, told = self.attack.progress(slots.state), time.monotonic()
                in_flight = 0.0 if progress is None else float(progress.sum())
                on_step(len(positions) - left - len(slots.y) + in_flight)
            if not self._time_to_settle(slots, step, left):
                continue
            gone = slots.done.nonzero().squeeze(1)
            if not len(gone):
                continue
            again = self._restarting(slots, gone)
            if len(again):
                self._restart(slots, again)
                gone = slots.done.nonzero().squeeze(1)
            if len(gone):
                yield self._leave(slots, gone, query)
                fresh = self._enter(task, waiting, min(len(gone), left)) if left else None
                left -= 0 if fresh is None else len(fresh.y)
                slots = self._refill(slots, gone, fresh)

    def _enter(self, task: Task, waiting: Iterator[int], count: int) -> Slots:
        position = torch.tensor(list(islice(waiting, count)), dtype=torch.int64)
        x = task.x[position].to(self.device)
        y, target, index = (t[position].to(self.device) for t in (task.y, task.target, task.index))
        zeros = torch.zeros_like(y)
        inf = torch.full(y.shape, float("inf"), device=self.device)
        return Slots(
            position=position.to(self.device), index=index, restart=zeros, x=x, y=y, target=target, best=x.clone(),
            best_size=inf, forward=zeros.clone(), backward=zeros.clone(), wins=zeros.clone(), done=zeros.bool(), fault=-inf,
            state=self._init(x, y, index, zeros),
        )  # fmt: skip

    def _init(self, x: Tensor, y: Tensor, index: Tensor, restart: Tensor) -> State:
        rng = SampleRng.create(self.seed, f"attack/{self.attack.name}", index, restart)
        return self.attack.init(x, y, self.threat, rng)  # type: ignore[no-any-return]

    def _step(self, slots: Slots) -> tuple[Slots, Query]:
        query = self.attack.ask(slots.state)
        cost = self.oracle.cost(query, ~slots.done)
        if self.query_budget is not None:
            used = slots.forward + slots.backward + cost.forward + cost.backward
            broke = used > self.query_budget
            slots = slots.replace(done=slots.done | broke)
            cost = self.oracle.cost(query, ~slots.done)
        rows = Points(slots.x, slots.y, slots.target, slots.index, slots.forward)
        answer, finite = self.oracle.answer(query, rows, cost)
        if finite is not None:
            slots = slots.replace(fault=torch.where(finite, slots.fault, float("nan")))
        slots = self._keep_nearest(slots, query, answer, cost)
        state = self.attack.tell(slots.state, answer)
        return slots.replace(
            state=state, done=slots.done | state.finished,
            forward=slots.forward + cost.forward, backward=slots.backward + cost.backward,
        ), query  # fmt: skip

    def _keep_nearest(self, slots: Slots, query: Query, answer: Answer, cost: Cost) -> Slots:
        """Each row's nearest successful point in the ball so far, its size, and the excess of claims outside of the ball."""
        hits = answer.success.reshape(cost.valid.shape)  # (B, P)
        hits = hits if cost.whole else hits & cost.valid
        if self.free_looks:  # go on with the rows and points that count
            index = hits.any(1).nonzero().squeeze(1)
            if not len(index):
                return slots
            row, point = hits[index].nonzero(as_tuple=True)
        else:
            index, place = (torch.arange(size, device=self.device) for size in hits.shape)
            row, point = index.repeat_interleave(len(place)), place.repeat(len(index))
        hits = hits[index]
        points = query.points.reshape(*cost.valid.shape, *slots.x.shape[1:])  # (B, P, C, H, W)
        asked, clean = points[index[row], point], slots.x[index[row]]
        nowhere = torch.full(hits.shape, float("inf"), device=self.device)
        excess = (-nowhere).index_put_((row, point), self.threat.excess(asked, clean))  # (M, P)
        size = nowhere.index_put((row, point), self.threat.norm.size(asked - clean))
        nearest_size, nearest = size.masked_fill(~hits | ~(excess <= 0), float("inf")).min(1)
        nearer = nearest_size < slots.best_size[index]
        points = points[index, nearest]  # (M, C, H, W)
        sure = torch.ones_like(nearer)
        if self.oracle.holds_votes:
            slots, nearer, sure = self._vote(slots, index, points, nearest_size, cost)
            nearest_size = nearest_size.masked_fill(~nearer, float("inf"))
        best = torch.where(nearer.reshape(-1, 1, 1, 1), points, slots.best[index])
        fault = slots.fault
        if self.attack.kind == "fixed_eps":
            worst = excess.masked_fill(~hits, float("-inf")).amax(1)
            fault = fault.index_copy(0, index, torch.maximum(fault[index], worst))
        best_size = slots.best_size.index_copy(0, index, torch.where(nearer, nearest_size, slots.best_size[index]))
        ends = nearer & sure if self.first_success_ends else torch.zeros_like(nearer)
        done = slots.done.index_copy(0, index, slots.done[index] | ends)
        return slots.replace(best=slots.best.index_copy(0, index, best), best_size=best_size, fault=fault, done=done)

    def _vote(self, slots: Slots, index: Tensor, points: Tensor, size: Tensor, cost: Cost) -> tuple[Slots, Tensor, Tensor]:
        """A random model votes on ``points`` (M, C, H, W), whose logits may have been lucky, and the judge will draw anew.

        Returns the slots that have paid for it, which points are the best so far, and which of them end the search in a ball:
        those that three of four votes are for. A slim majority is kept, and the search goes on.
        """
        model = self.oracle.passes.model.traits
        used = (slots.forward + cost.forward)[index]
        asked = size.isfinite() if self.first_success_ends else size < slots.best_size[index]
        if self.query_budget is not None:
            asked = asked & (used + (slots.backward + cost.backward)[index] + model.votes <= self.query_budget)
        rows = Points(points, slots.y[index], slots.target[index], slots.index[index], used)
        wins = self.oracle.vote(rows) * asked
        best = wins * 2 > model.votes
        if self.first_success_ends:
            best &= wins > slots.wins[index]
        wins = torch.where(best, wins, slots.wins[index])
        forward = slots.forward.index_add(0, index, asked * model.votes)
        return slots.replace(forward=forward, wins=slots.wins.index_copy(0, index, wins)), best, wins * 4 >= model.votes * 3

    def _time_to_settle(self, slots: Slots, step: int, left: int) -> bool:
        if not self.free_looks:
            return step % self.SETTLE_EVERY == 0
        done = int(slots.done.sum())
        # A few empty slots cost less than entering rows one by one.
        return done > 0 and (left == 0 or done * 16 >= len(slots.done))

    def _restarting(self, slots: Slots, gone: Tensor) -> Tensor:
        """Of the rows that are done, those that start anew: within budget, and nothing found or the nearest still wanted."""
        more = (slots.restart[gone] + 1 < self.restarts) & slots.state.finished[gone]
        if self.first_success_ends:
            more &= ~slots.best_size[gone].isfinite()
        return gone[more]

    def _restart(self, slots: Slots, again: Tensor) -> None:
        restart = slots.restart[again] + 1
        slots.restart[again] = restart
        slots.done[again] = False
        slots.state.assign(again, self._init(slots.x[again], slots.y[again], slots.index[again], restart))

    def _leave(self, slots: Slots, gone: Tensor, query: Query) -> Outcome:
        rows, last = slots.select(gone), query.points[gone]
        last = last[:, 0] if last.dim() == 5 else last
        fault = rows.fault
        if self.attack.kind == "fixed_eps":
            fault = torch.maximum(fault, self.threat.excess(last, rows.x))
        wrong = (~(fault <= 0)).nonzero().squeeze(1)
        if len(wrong):
            self._refuse(int(rows.index[wrong[0]]), float(fault[wrong[0]]), bool(last[wrong[0]].isfinite().all()))
        found = rows.best_size.isfinite()
        return Outcome(rows.position, found, rows.best, rows.best_size, rows.forward, rows.backward)

    def _refuse(self, sample: int, excess: float, finite_point: bool) -> None:
        if math.isnan(excess) and finite_point:
            raise ModelError(f"The model returned NaN or inf near sample {sample}: check its weights and normalisation.")
        if math.isnan(excess):
            raise AttackError(f"{self.attack.name} produced NaN for sample {sample}.")
        raise AttackError(
            f"{self.attack.name} left the {self.threat.norm.label} ball of radius {self.threat.eps} or the bounds [0, 1] "
            f"on sample {sample}, by {excess:.3g}."
        )

    @staticmethod
    def _refill(slots: Slots, gone: Tensor, fresh: Slots | None) -> Slots:
        """Put ``fresh`` rows into the slots of those that left; with none left, close the gaps."""
        count = 0 if fresh is None else len(fresh.y)
        if fresh is not None and count:
            slots = slots.assign(gone[:count], fresh)
        if count == len(gone):
            return slots
        keep = torch.ones_like(slots.done)
        keep[gone[count:]] = False
        return slots.select(keep.nonzero().squeeze(1))
