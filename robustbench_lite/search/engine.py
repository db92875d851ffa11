"""Continuous batching: what is done leaves at once, and the next one enters.

There is a fixed number of slots, each holding one sample. Rows at different steps share one model
call. Nothing that is decided for a row looks at its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.errors import AttackError
from robustbench_lite.model.passes import Passes, Points, not_finite
from robustbench_lite.rows.looks import looks_are_free
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.announcing import Announcer, OnStep
from robustbench_lite.search.arrivals import Arrivals, enter
from robustbench_lite.search.attack import Attack, State
from robustbench_lite.search.claims import Keeper
from robustbench_lite.search.cost import Cost
from robustbench_lite.search.lowest import keep_lowest
from robustbench_lite.search.oracle import Oracle
from robustbench_lite.search.query import Query
from robustbench_lite.search.slots import Slots
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel


class Turn(NamedTuple):
    """Where one question and its answer have led."""

    slots: Slots
    query: Query
    """What was asked."""


class Engine:
    """Runs one attack on one model under one threat model."""

    #: On an accelerator, look at which rows are done only every few steps: each look waits for the
    #: device.
    SETTLE_EVERY = 4

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
        self.attack = attack
        self.threat = threat
        self.seed = seed
        self.query_budget = query_budget
        self.device = torch.device(device)
        self.free_looks = looks_are_free(self.device) if free_looks is None else free_looks
        self.oracle = Oracle(passes, attack, self.free_looks, self.device)
        self.restarts: int = getattr(attack, "restarts", 1)
        self.keeper = Keeper.of(self.oracle, threat, query_budget)

    def search(self, task: Task, on_step: OnStep | None = None) -> Iterator[SearchOutcome]:
        """Attack the rows of ``task``.

        Args:
            task: what is searched.
            on_step: hears, a few times a second, how many rows' worth of work is done, rows in
                flight included.

        Yields:
            Rows in the order in which they finish, each exactly once.
        """
        positions = task.order
        if not len(positions):
            return
        waiting = iter(positions)
        announcer = Announcer(on_step)
        width = self.oracle.rows_at_once(self.threat, tuple(task.x.shape[1:]))
        slots = self._enter(task, waiting, width)
        left = len(positions) - len(slots.y)
        step = 0
        while len(slots.y):
            slots, query = self._step(slots)
            step += 1
            if announcer.due:
                progress = self.attack.progress(slots.state)
                in_flight = 0.0 if progress is None else float(progress.sum())
                announcer.announce(len(positions) - left - len(slots.y) + in_flight)
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
                slots = slots.refill(gone, fresh)

    def _enter(self, task: Task, waiting: Iterator[int], count: int) -> Slots:
        """Take in the next ``count`` rows, as far as there are any."""
        position = torch.tensor(list(islice(waiting, count)), dtype=torch.int64)
        rows = enter(task, position, self.device)
        return rows.admit(self._init(rows, rows.restart), self.restarts - 1)

    def _init(self, rows: Arrivals | Slots, restart: Tensor) -> State:
        rng = SampleRng.create(self.seed, f"attack/{self.attack.name}", rows.index, restart)
        if rows.start.dim() < 4:
            return self.attack.init(rows.x, rows.y, self.threat, rng)  # type: ignore[no-any-return]
        return self.attack.init_at(rows.start, rows.x, rows.y, self.threat, rng)  # type: ignore[no-any-return]

    def _step(self, slots: Slots) -> Turn:
        """Let the attack ask, and tell it the answer."""
        query = self.attack.ask(slots.state)
        cost = self.oracle.meter.cost(query, ~slots.done)
        if self.query_budget is not None:
            used = slots.spent + slots.forward + slots.backward + cost.forward + cost.backward
            broke = used > self.query_budget
            slots = slots.replace(done=slots.done | broke)
            cost = self.oracle.meter.cost(query, ~slots.done)
        if self._may_leave_it_to_the_judge(query):
            return Turn(self._leave_it_to_the_judge(slots, query, cost), query)
        rows = Points(slots.x, slots.y, slots.target, slots.index, slots.forward)
        answer, finite, margins = self.oracle.answer(query, rows, cost)
        if finite is not None:
            slots = slots.replace(fault=torch.where(finite, slots.fault, float("nan")))
        if slots.keeps_lowest:
            slots = keep_lowest(slots, query.points, margins, cost.valid, self.threat)
        slots = self.keeper.keep(slots, query, answer, cost)
        state = self.attack.tell(slots.state, answer)
        slots = slots.replace(
            state=state,
            done=slots.done | state.finished,
            forward=slots.forward + cost.forward,
            backward=slots.backward + cost.backward,
        )
        return Turn(slots, query)

    def _may_leave_it_to_the_judge(self, query: Query) -> bool:
        """Tell whether nothing depends on the answer to one last point a row.

        That is: no draw of the model, no restart, no nearer point.
        """
        nothing_depends = (
            self.keeper.first_success_ends
            and self.restarts == 1
            and not self.oracle.passes.model.traits.random
        )
        return query.final and query.points.dim() == 4 and self.free_looks and nothing_depends

    def _leave_it_to_the_judge(self, slots: Slots, query: Query, cost: Cost) -> Slots:
        """Take the last points of the rows that ask for what they found.

        The query counts: the judge makes it.
        """
        asks = cost.valid.squeeze(1).clone()
        best = torch.where(asks.reshape(-1, 1, 1, 1), query.points, slots.best)
        size = torch.where(asks, self.threat.norm.size(query.points - slots.x), slots.best_size)
        forward = slots.forward + cost.forward
        return slots.replace(
            best=best, best_size=size, unasked=asks, done=torch.ones_like(asks), forward=forward
        )

    def _time_to_settle(self, slots: Slots, step: int, left: int) -> bool:
        """Tell whether to look now at which rows are done; ``left`` rows still wait outside."""
        if not self.free_looks:
            return step % self.SETTLE_EVERY == 0
        done = int(slots.done.sum())
        # A few empty slots cost less than entering rows one by one.
        return done > 0 and (left == 0 or done * 16 >= len(slots.done))

    def _restarting(self, slots: Slots, gone: Tensor) -> Tensor:
        """Find those of the rows that are done which start anew.

        They are within budget, and nothing is found or the nearest is still wanted.
        """
        more = (slots.restarts_left[gone] > 0) & slots.state.finished[gone]
        if self.keeper.first_success_ends:
            more &= ~slots.best_size[gone].isfinite()
        return gone[more]

    def _restart(self, slots: Slots, again: Tensor) -> None:
        restart = slots.restart[again] + 1
        slots.restart[again] = restart
        slots.restarts_left[again] -= 1
        slots.done[again] = False
        fresh = self._init(slots.select(again), restart)
        slots.state.assign(again, fresh)

    def _leave(self, slots: Slots, gone: Tensor, query: Query) -> SearchOutcome:
        """Take out the rows ``gone``.

        Raises:
            ModelError: the model's output was not finite.
            AttackError: a fixed-eps attack left the ball.
        """
        last = query.points if query.points.dim() == 4 else query.points[:, 0]
        rows = slice(None) if len(gone) == len(slots.y) else gone  # no copy where every row goes
        fault = slots.fault[rows]
        if self.attack.kind == "fixed_eps":
            excess = self.threat.excess(last[rows], slots.x[rows])
            if query.explores is not None:
                excess = excess.masked_fill(query.explores[rows], float("-inf"))
            fault = torch.maximum(fault, excess)
        wrong = (~(fault <= 0)).nonzero().squeeze(1)
        if len(wrong):
            at = gone[wrong[0]]
            raise self._error(int(slots.index[at]), float(fault[wrong[0]]), last[at])
        size = slots.best_size[gone]
        unasked = slots.unasked[gone]
        return SearchOutcome(
            position=slots.position[gone],
            found=size.isfinite() & ~unasked,
            unasked=unasked,
            x_adv=slots.best[gone],
            size=size,
            forward=slots.forward[gone],
            backward=slots.backward[gone],
            lowest=slots.lowest[gone],
            lowest_margin=slots.lowest_margin[gone],
        )

    def _error(self, sample: int, excess: float, last: Tensor) -> Exception:
        """Say what is wrong with a sample, whose last point is ``last``."""
        if math.isnan(excess) and bool(last.isfinite().all()):
            return not_finite(sample)
        if math.isnan(excess):
            return AttackError(f"{self.attack.name} produced NaN for sample {sample}.")
        return AttackError(
            f"{self.attack.name} left the {self.threat.norm.label} ball of radius "
            f"{self.threat.eps} or the bounds [0, 1] on sample {sample}, by {excess:.3g}."
        )
