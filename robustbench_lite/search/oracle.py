"""The oracle: the only way an attack reaches the model.

It limits access, packs points, counts queries, judges answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.model.fast.incremental import Incremental
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.cost import Cost, Meter
from robustbench_lite.search.query import Access, Answer, Neighbours, Query
from robustbench_lite.threat import ThreatModel


class Passed(NamedTuple):
    """What the model says at N points."""

    logits: Tensor
    """(N, K)."""
    gradient: Tensor | None
    """(N, C, H, W); None where nobody asked for one."""


class Reply(NamedTuple):
    """The answer for the attack, and what only the engine sees."""

    answer: Answer
    finite: Tensor | None
    """The model's output was finite at every valid point of the row, (B,) bool.

    None when it was everywhere.
    """
    margins: Tensor
    """How far each point is from success, (B, P); undefined where it does not count."""


class Oracle:
    """Answers the queries of one attack on one model.

    With ``free_looks`` (a CPU) it branches on what is in tensors to save work; an accelerator would
    have to wait for each look, and does the general thing. Both give the same answers.
    """

    def __init__(
        self, passes: Passes, attack: Attack, free_looks: bool, device: torch.device
    ) -> None:
        self.passes = passes
        self.attack = attack
        self.free_looks = free_looks
        self.device = device
        self.meter = Meter(passes, attack, free_looks)

    def answer(self, query: Query, rows: Points, cost: Cost) -> Reply:
        """Evaluate the points that count.

        Args:
            query: what is asked.
            rows: one entry a slot; its ``x`` is not looked at.
            cost: what the meter says of the query.
        """
        shape = query.points.shape[: query.points.dim() - 3]
        x = query.points.flatten(0, 1) if len(shape) == 2 else query.points
        points = self._spread(rows, x, cost.valid.shape[1])
        aimed = _aim(query, points)
        passed = self._ask(query, aimed, cost)
        gradient = passed.gradient
        if gradient is None and query.access == Access.GRADIENT:
            gradient = torch.zeros_like(points.x)
        margins = margin(passed.logits, points.y, points.target)
        # Whatever the model computes in, the state of an attack is of float32.
        shown = passed.logits.to(points.x.dtype)
        answer = Answer(
            success=(margins < 0).reshape(shape),
            labels=passed.logits.argmax(1).reshape(shape),
            logits=shown.reshape(*shape, -1) if query.access >= Access.SCORES else None,
            gradient=None if gradient is None else gradient.reshape(query.points.shape),
            loss_of=_loss_of(query, shown, aimed),
        )
        # A margin is a difference of logits: no number as soon as the winner or the true class is
        # none.
        margins = margins.reshape(cost.valid.shape)
        if self.free_looks and math.isfinite(float(margins.sum())):
            return Reply(answer, None, margins)
        return Reply(answer, (margins.isfinite() | ~cost.valid).all(1), margins)

    def _ask(self, query: Query, points: Points, cost: Cost) -> Passed:
        """Ask the model at ``points``, on the way that fits the query."""
        if query.beside is not None and query.access < Access.GRADIENT:
            shape = tuple(query.points.shape[2:])
            incremental = self.passes.incremental(shape, self.device)
            if incremental is not None:
                return Passed(self._beside(incremental, query, query.beside, cost), None)
        if self._goes_whole(query, points, cost):
            return self._in_turn(query, points, self._wants_gradient(query, cost))
        return self._pack(query, points, cost)

    def _goes_whole(self, query: Query, points: Points, cost: Cost) -> bool:
        """Tell whether all points go to the model as they come.

        The few rows that are done ride along until the engine settles: to leave them out costs
        more, and waits for a look.
        """
        if cost.whole:
            return True
        if query.valid is not None or len(points.x) > self.passes.batch_size:
            return False
        one_a_row = query.points.dim() == 4
        return one_a_row or not self.free_looks or bool(cost.valid.all())

    def _wants_gradient(self, query: Query, cost: Cost) -> bool:
        """Tell whether the query asks for gradients, of some point, as far as a look is free."""
        if query.access < Access.GRADIENT:
            return False
        return not self.free_looks or bool(cost.gradient.any())

    def rows_at_once(self, threat: ThreatModel, shape: tuple[int, ...]) -> int:
        """Count the rows that may ask side by side: as many as fill ``Attack.batches``.

        Args:
            threat: what the search is for.
            shape: that of an image, (C, H, W).
        """
        full = self.passes.batch_size
        if self.attack.asks_neighbours(threat, shape):
            incremental = self.passes.incremental(shape, self.device)
            full = full if incremental is None else self._full(incremental)
        return max(1, self.attack.batches * full // self.attack.points(shape))

    def _full(self, incremental: Incremental) -> int:
        """Count the neighbours that take as many multiplications as a batch of the model."""
        return int(self.passes.batch_size * incremental.gain)

    def _beside(
        self, incremental: Incremental, query: Query, beside: Neighbours, cost: Cost
    ) -> Tensor:
        """Compute the logits of neighbours, (B P, K); 0 at points that do not count."""
        base, place = beside
        rows, count = cost.valid.shape
        at = place[:, :, None, None].expand(-1, -1, base.shape[1], 1)
        pixel = query.points.flatten(3).gather(3, at).reshape(rows * count, -1)  # (B P, C)
        step = max(1, self._full(incremental) // count)
        parts = []
        for start in range(0, rows, step):
            part = slice(start, start + step)
            asked = cost.valid[part].flatten().nonzero().squeeze(1)
            points = asked + start * count
            owner = asked // count
            found = incremental.logits(base[part], owner, place.flatten()[points], pixel[points])
            whole = found.new_zeros(cost.valid[part].numel(), found.shape[1])
            parts.append(whole.index_copy_(0, asked, found))
        return torch.cat(parts)

    @property
    def holds_votes(self) -> bool:
        """A success at a random model has to hold in a vote before it counts."""
        return self.passes.model.traits.random and self.passes.adaptive

    def vote(self, rows: Points) -> Tensor:
        """Count the model's votes, drawn anew, that reach the goal at each of the rows' points.

        Returns:
            (M,) int64.
        """
        ballots = self.passes.votes(rows, self.passes.model.traits.votes)
        return torch.stack([margin(logits, rows.y, rows.target) < 0 for logits in ballots]).sum(0)

    def _pass(self, query: Query, points: Points, with_gradient: bool) -> Passed:
        if with_gradient and query.loss is not None:
            return Passed(*self.passes.gradient(points, query.loss))
        return Passed(self.passes.logits(points), None)

    def _in_turn(self, query: Query, points: Points, with_gradient: bool) -> Passed:
        """Ask at all points, one model batch after the other."""
        size = self.passes.batch_size
        if len(points.x) <= size:
            return self._pass(query, points, with_gradient)
        parts = [
            self._pass(query, points.take(slice(i, i + size)), with_gradient)
            for i in range(0, len(points.x), size)
        ]
        logits, gradients = zip(*parts, strict=True)
        return Passed(torch.cat(logits), torch.cat(gradients) if with_gradient else None)

    def _pack(self, query: Query, points: Points, cost: Cost) -> Passed:
        """Ask at the points that count alone, in full model batches.

        Those that want a gradient come first, so that one batch at most is mixed.
        """
        valid = cost.valid.flatten()
        wanted = cost.gradient.flatten()
        first = wanted.nonzero().squeeze(1)
        order = torch.cat([first, (valid & ~wanted).nonzero().squeeze(1)])
        # With no live row nothing is evaluated: the classes that are named stand for the number.
        classes = max(2, int(torch.maximum(points.y, points.target).max()) + 1)
        logits = points.x.new_zeros(len(points.x), classes)
        gradient = torch.zeros_like(points.x) if query.access == Access.GRADIENT else None
        for start in range(0, len(order), self.passes.batch_size):
            part = order[start : start + self.passes.batch_size]
            part_logits, part_gradient = self._pass(query, points.take(part), start < len(first))
            if start == 0:
                logits = part_logits.new_zeros(len(points.x), part_logits.shape[1])
            logits[part] = part_logits
            if part_gradient is not None and gradient is not None:
                gradient[part] = part_gradient
        return Passed(logits, gradient)

    def _spread(self, rows: Points, x: Tensor, count: int) -> Points:
        """Make one entry a point of one a row, whose images are ``x``."""
        if count == 1:
            return rows._replace(x=x)
        y, target, index, draw = (field.repeat_interleave(count) for field in rows[1:])
        number = torch.arange(count, device=draw.device).repeat(len(rows.y))
        offset = number * self.passes.forwards_per_point
        return Points(x, y, target, index, draw + offset)


def _aim(query: Query, points: Points) -> Points:
    """Put the classes that the loss of ``query`` drives to in the place of the goal's."""
    if query.toward is None:
        return points
    toward = query.toward
    spread = len(points.y) // len(toward) if toward.dim() == 1 else 1
    return points._replace(target=toward.flatten().repeat_interleave(spread))


def _loss_of(query: Query, logits: Tensor, points: Points) -> Callable[[], Tensor] | None:
    """Give what computes the loss at each point, if ``query`` names one."""
    loss = query.loss
    if loss is None:
        return None
    shape = query.points.shape[:-3]  # (B,) or (B, P)
    return lambda: loss(logits, points.y, points.target).reshape(shape)
