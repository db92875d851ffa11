"""Attacks that drive the model themselves, as those of other packages do, and their engine.

Each sample is searched alone, on the CPU, with the global generators seeded for it; what it asks is
packed with what the other samples ask. So such an attack may draw from global generators and stop
on batch-wide conditions, and its verdicts still depend on no neighbour. Access, counts, budget and
judging are the engine's, as for every attack.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError, RobustBenchError
from robustbench_lite.machine.generators import kept_generators, seed_generators
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.announcing import Announcer, OnStep
from robustbench_lite.search.attack import Attack, State
from robustbench_lite.search.lanes import Lane
from robustbench_lite.search.query import Answer, Query
from robustbench_lite.search.respondent import Respondent, RowRequest
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.search.view import InFlight, View
from robustbench_lite.threat import ThreatModel


class DrivenAttack(Attack[State]):
    """Base of attacks that call a model instead of answering ``ask`` and ``tell``.

    The rest of ``Attack`` holds for them.
    """

    @abstractmethod
    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        """Search around one image.

        Args:
            model: every point that it is called with is judged; (M, C, H, W) costs M queries. With
                LABELS access it returns one-hot rows, and only with GRADIENT a graph.
            x: the clean image, (1, C, H, W).
            y: its class, (1,).
            target: the class to reach, (1,), or -1.
            threat: what the adversary may do.

        Returns:
            A point, or None; it is moved into the ball and judged too.
        """

    def init(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"{self.name} drives the model itself: run it with DrivenEngine, not with Engine or "
            "for training."
        )

    def ask(self, state: State) -> Query:
        return self.init()

    def tell(self, state: State, answer: Answer) -> State:
        return self.init()


class DrivenEngine:
    """Runs one driven attack on one model under one threat model, with the face of ``Engine``."""

    #: Most samples in flight. Each has a thread, of which one runs at a time; beyond this the
    #: model's share is small anyway.
    LANES = 64

    def __init__(
        self,
        attack: DrivenAttack,
        passes: Passes,
        threat: ThreatModel,
        *,
        seed: int = 0,
        query_budget: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.attack = attack
        self.passes = passes
        self.threat = threat
        self.seed = seed
        self.restarts: int = getattr(attack, "restarts", 1)
        self.first_success_ends = threat.eps is not None
        self.respondent = Respondent(attack, passes, threat, query_budget, torch.device(device))

    def search(self, task: Task, on_step: OnStep | None = None) -> Iterator[SearchOutcome]:
        """Attack the rows of ``task``.

        Args:
            task: what is searched.
            on_step: hears, a few times a second, how many rows are done.

        Yields:
            Rows in the order in which they finish, each exactly once.
        """
        waiting = iter(task.order)
        rows: list[InFlight] = []
        width = min(self.LANES, self.passes.batch_size)
        done = 0
        announcer = Announcer(on_step)
        try:
            while True:
                for position in islice(waiting, width - len(rows)):
                    rows.append(self._enter(task, position))
                    with kept_generators():
                        self._advance(rows[-1], None)
                if not rows:
                    return
                self._answer(rows)
                over = [row for row in rows if row.lane.request is None]
                rows = [row for row in rows if row.lane.request is not None]
                done += len(over)
                if announcer.due:
                    announcer.announce(done)
                if over:
                    yield _outcome(over)
        finally:
            with kept_generators():
                for row in rows:
                    row.lane.close()

    def _enter(self, task: Task, position: int) -> InFlight:
        """Take a sample in, with a lane of its own in which its search waits to begin."""
        fields = (task.x, task.y, task.target, task.index)
        x, y, target, index = (field[position : position + 1].cpu() for field in fields)
        spent = 0 if task.spent is None else int(task.spent[position])
        row = InFlight(position, int(index), x, y, target, best=x.clone(), spent=spent)
        first = task.first_restart
        restarts = range(first, first + self.restarts)
        row.lane = Lane(lambda: self._search(row, restarts))
        return row

    def _search(self, row: InFlight, restarts: range) -> None:
        """Run the whole search of a row, in its lane."""
        view = View(row, self.attack)
        purpose = f"attack/{self.attack.name}"
        index = torch.tensor([row.index])
        for restart in restarts:
            rng = SampleRng.create(self.seed, purpose, index, torch.tensor([restart]))
            first, second = rng.bits(0, 2)[0].tolist()
            seed_generators((first, second))
            clean = (row.x.clone(), row.y.clone(), row.target.clone())
            last = self.attack.run(view, *clean, self.threat)
            if last is not None:
                last = self.threat.project(last.detach().float(), row.x)
                if not torch.equal(last, row.best):
                    view(last)

    def _advance(self, row: InFlight, reply: Tensor | None) -> None:
        """Let a row run to its next question or its end."""
        try:
            row.lane.advance(reply)
        except RobustBenchError:
            raise
        except Exception as error:
            raise AttackError(
                f"{self.attack.name} failed on sample {row.index}: {type(error).__name__}: {error}"
            ) from error

    def _answer(self, rows: Sequence[InFlight]) -> None:
        """Answer what the rows ask, as far as they may, and let each run on."""
        asked = [RowRequest(row, row.lane.request) for row in rows if row.lane.request is not None]
        replies = self.respondent.reply(asked)
        with kept_generators():
            for row, _ in asked:
                reply = replies.get(row.position)
                if reply is None or (self.first_success_ends and row.found):
                    row.lane.close()
                else:
                    self._advance(row, reply)


def _outcome(rows: Sequence[InFlight]) -> SearchOutcome:
    size = torch.tensor([row.best_size for row in rows])
    found = size.isfinite()
    return SearchOutcome(
        position=torch.tensor([row.position for row in rows]),
        found=found,
        unasked=torch.zeros_like(found),
        x_adv=torch.cat([row.best for row in rows]),
        size=size,
        forward=torch.tensor([row.forward for row in rows]),
        backward=torch.tensor([row.backward for row in rows]),
        lowest=torch.zeros(len(rows), 0),
        lowest_margin=torch.full((len(rows),), float("inf")),
    )
