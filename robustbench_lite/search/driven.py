"""Attacks that drive the model themselves, as those of other packages do, and the engine that runs
them.

Each sample is searched alone, on the CPU, with the global generators seeded for it; what it asks is
packed with what the other samples ask. So such an attack may draw from global generators and stop
on batch-wide conditions, and its verdicts still depend on no neighbour. Access, counts, budget and
judging are the engine's, as for every attack.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.errors import AttackError, RobustBenchError
from robustbench_lite.machine.generators import kept_generators, seed_generators
from robustbench_lite.model.passes import Passes, Points, not_finite
from robustbench_lite.rows.losses import margin
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.attack import Access, Answer, Attack, Query, State
from robustbench_lite.search.engine import Engine, Outcome, Task
from robustbench_lite.search.lanes import Lane, Request
from robustbench_lite.threat import ThreatModel


class DrivenAttack(Attack[State]):
    """Base of attacks that call a model instead of answering ``ask`` and ``tell``; the rest of
    ``Attack`` holds for them.
    """

    @abstractmethod
    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        """Search around one image ``x`` (1, C, H, W) of class ``y`` (1,); ``target`` (1,) is the
        class to reach or -1.

        Every point that ``model`` is called with is judged; (M, C, H, W) costs M queries. The
        result, if there is one, is moved into the ball and judged too. With LABELS access ``model``
        returns one-hot rows, and only with GRADIENT a graph.
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


@dataclass(eq=False)
class _Row:
    """A sample in flight, on the CPU."""

    position: int
    index: int
    x: Tensor
    y: Tensor
    target: Tensor
    best: Tensor
    best_size: float = float("inf")
    forward: int = 0
    backward: int = 0
    lane: Lane = field(init=False)

    @property
    def found(self) -> bool:
        return self.best_size < float("inf")


class _View(nn.Module):
    """The model as the attack on one row may see it."""

    def __init__(self, row: _Row, attack: Attack) -> None:
        super().__init__()
        self.row = row
        self.attack = attack
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return _Call.apply(x, self.row, self.attack)  # type: ignore[no-any-return]


class _Call(torch.autograd.Function):
    """Logits by asking; their gradient by asking again when it is wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: _Row, attack: Attack) -> Tensor:
        ctx.row = row
        ctx.attack = attack
        ctx.draw = row.forward
        ctx.save_for_backward(x)
        return row.lane.ask(Request(x.detach().clone(), row.forward))

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None]:
        if ctx.attack.access < Access.GRADIENT:
            raise AttackError(
                f"{ctx.attack.name} asked for GRADIENT but declares access = "
                f"{ctx.attack.access.name}: "
                "raise its declared access or ask for less."
            )
        (x,) = ctx.saved_tensors
        return (
            ctx.row.lane.ask(Request(x.detach().clone(), ctx.draw, weights[0].clone())),
            None,
            None,
        )


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
        self.query_budget = query_budget
        self.device = torch.device(device)
        self.restarts: int = getattr(attack, "restarts", 1)
        self.first_success_ends = threat.eps is not None

    def search(
        self, task: Task, on_step: Callable[[float], None] | None = None
    ) -> Iterator[Outcome]:
        """Attack the rows of ``task``; they come out in the order in which they finish, each
        exactly once.
        """
        waiting = iter(range(len(task.y)) if task.positions is None else task.positions.tolist())
        rows: list[_Row] = []
        width = min(self.LANES, self.passes.batch_size)
        done = 0
        told = time.monotonic()
        try:
            while True:
                for position in islice(waiting, width - len(rows)):
                    rows.append(self._row(task, position))
                    with kept_generators():
                        self._advance(rows[-1], None)
                if not rows:
                    return
                self._answer(rows)
                over = [row for row in rows if row.lane.request is None]
                rows = [row for row in rows if row.lane.request is not None]
                done += len(over)
                if on_step is not None and time.monotonic() - told > Engine.TELL_SECONDS:
                    told = time.monotonic()
                    on_step(done)
                if over:
                    yield _outcome(over)
        finally:
            with kept_generators():
                for row in rows:
                    row.lane.close()

    def _row(self, task: Task, position: int) -> _Row:
        x, y, target, index = (
            field[position : position + 1].cpu()
            for field in (task.x, task.y, task.target, task.index)
        )
        row = _Row(position, int(index), x, y, target, best=x.clone())
        row.lane = Lane(lambda: self._search(row))
        return row

    def _search(self, row: _Row) -> None:
        """The whole search of a row, in its lane."""
        view = _View(row, self.attack)
        for restart in range(self.restarts):
            rng = SampleRng.create(
                self.seed,
                f"attack/{self.attack.name}",
                torch.tensor([row.index]),
                torch.tensor([restart]),
            )
            first, second = rng.bits(0, 2)[0].tolist()
            seed_generators((first, second))
            last = self.attack.run(
                view, row.x.clone(), row.y.clone(), row.target.clone(), self.threat
            )
            if last is not None:
                last = self.threat.project(last.detach().float(), row.x)
                if not torch.equal(last, row.best):
                    view(last)

    def _advance(self, row: _Row, reply: Tensor | None) -> None:
        try:
            row.lane.advance(reply)
        except RobustBenchError:
            raise
        except Exception as error:
            raise AttackError(
                f"{self.attack.name} failed on sample {row.index}: {type(error).__name__}: {error}"
            ) from error

    def _answer(self, rows: list[_Row]) -> None:
        """Answer what the rows ask, as far as they may, and let each run to its next question or
        its end.
        """
        asked = [(row, row.lane.request) for row in rows if row.lane.request is not None]
        paid = [(row, request) for row, request in asked if self._pay(row, request)]
        replies: dict[int, Tensor] = {}
        for kind in (self._logits, self._gradient):
            part = [
                (row, request)
                for row, request in paid
                if (request.weights is None) == (kind == self._logits)
            ]
            if part:
                replies |= dict(zip((row.position for row, _ in part), kind(part), strict=True))
        with kept_generators():
            for row, _ in asked:
                reply = replies.get(row.position)
                if reply is None or (self.first_success_ends and row.found):
                    row.lane.close()
                else:
                    self._advance(row, reply)

    def _pay(self, row: _Row, request: Request) -> bool:
        """Count a request, unless it goes beyond the budget."""
        points = len(request.x) * self.passes.forwards_per_point
        forward, backward = (points, 0) if request.weights is None else (0, points)
        if request.weights is not None and self.passes.surrogate is not None:
            forward = points  # the surrogate's own passes are not free
        if (
            self.query_budget is not None
            and row.forward + row.backward + forward + backward > self.query_budget
        ):
            return False
        row.forward = row.forward + forward
        row.backward = row.backward + backward
        return True

    def _points(self, part: list[tuple[_Row, Request]]) -> Points:
        count = torch.tensor([len(request.x) for _, request in part])
        step = (
            torch.cat([torch.arange(len(request.x)) for _, request in part])
            * self.passes.forwards_per_point
        )
        columns = (
            torch.cat([request.x for _, request in part]).float(),
            torch.cat([row.y for row, _ in part]).repeat_interleave(count),
            torch.cat([row.target for row, _ in part]).repeat_interleave(count),
            torch.tensor([row.index for row, _ in part]).repeat_interleave(count),
            torch.tensor([request.draw for _, request in part]).repeat_interleave(count) + step,
        )
        return Points(*(column.to(self.device) for column in columns))

    def _logits(self, part: list[tuple[_Row, Request]]) -> list[Tensor]:
        """Logits for each request, (M, K); the points are judged on the way."""
        points = self._points(part)
        logits = self.passes.logits(points)
        count = [len(request.x) for _, request in part]
        self._judge(
            [row for row, _ in part], points, margin(logits, points.y, points.target), count
        )
        if self.attack.access < Access.SCORES:
            logits = F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
        return list(torch.split(logits.cpu(), count))

    def _gradient(self, part: list[tuple[_Row, Request]]) -> list[Tensor]:
        """Gradients for each request, (M, C, H, W)."""
        points = self._points(part)
        weights = torch.cat(
            [request.weights for _, request in part if request.weights is not None]
        ).to(self.device)
        gradients = []
        for start in range(0, len(points.x), self.passes.batch_size):
            rows = slice(start, start + self.passes.batch_size)
            gradients.append(
                self.passes.gradient(points.take(rows), _weighted_sum(weights[rows]))[1]
            )
        return list(
            torch.split(torch.cat(gradients).cpu(), [len(request.x) for _, request in part])
        )

    def _judge(self, rows: list[_Row], points: Points, margins: Tensor, count: list[int]) -> None:
        """Keep the nearest success in the ball of each row. Points outside of it are steps on the
        way, and no error.
        """
        clean = torch.cat(
            [row.x.expand(n, -1, -1, -1) for row, n in zip(rows, count, strict=True)]
        ).to(self.device)
        wrong = (~margins.isfinite()).nonzero().squeeze(1)
        if len(wrong):
            self._refuse(int(points.sample[wrong[0]]), points.x[wrong[0]])
        size = self.threat.norm.size(points.x - clean)
        hit = (margins < 0) & (self.threat.excess(points.x, clean) <= 0)
        sizes = torch.split(size.masked_fill(~hit, float("inf")).cpu(), count)
        for row, own, start in zip(
            rows, sizes, torch.tensor([0, *count]).cumsum(0).tolist(), strict=False
        ):
            nearest = int(own.argmin())
            if float(own[nearest]) < row.best_size:
                row.best = points.x[start + nearest].unsqueeze(0).cpu()
                row.best_size = float(own[nearest])

    def _refuse(self, sample: int, point: Tensor) -> NoReturn:
        if bool(point.isfinite().all()):
            raise not_finite(sample)
        raise AttackError(f"{self.attack.name} produced NaN for sample {sample}.")


def _weighted_sum(weights: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # The last logits may belong to padding, which has no weights.
    return lambda logits, y, target: (logits[: len(weights)] * weights).sum(1)


def _outcome(rows: list[_Row]) -> Outcome:
    size = torch.tensor([row.best_size for row in rows])
    columns = (
        [row.position for row in rows],
        [row.forward for row in rows],
        [row.backward for row in rows],
    )
    position, forward, backward = (torch.tensor(column) for column in columns)
    found = size.isfinite()
    return Outcome(
        position,
        found,
        torch.zeros_like(found),
        torch.cat([row.best for row in rows]),
        size,
        forward,
        backward,
    )
