"""What a query costs each row, and which of its points count."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.errors import AttackError
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.query import Access, Query


class Cost(NamedTuple):
    """What a query costs each row."""

    forward: Tensor
    """Model evaluations, (B,) int64."""
    backward: Tensor
    """Gradient evaluations, (B,) int64."""
    valid: Tensor
    """Points that count, (B, P) bool."""
    gradient: Tensor
    """Points whose gradient counts, (B, P) bool."""
    whole: bool = False
    """Known without a look: every point counts, and either every gradient or none."""


class _Whole(NamedTuple):
    """A query for all points of all rows. It costs the same step after step."""

    rows: int
    points: int
    """Those of a row."""
    with_gradient: bool


class Meter:
    """Says what the queries of one attack on one model cost.

    With ``free_looks`` (a CPU) it looks whether a query is for all points of all rows.
    """

    def __init__(self, passes: Passes, attack: Attack, free_looks: bool) -> None:
        self.passes = passes
        self.attack = attack
        self.free_looks = free_looks
        self._whole: _Whole | None = None
        self._whole_cost: Cost | None = None

    def cost(self, query: Query, live: Tensor) -> Cost:
        """Say what ``query`` costs each row.

        Args:
            query: what is asked.
            live: rows that ask, (B,) bool.

        Raises:
            AttackError: the query asks for more than the attack declares.
        """
        if query.access > self.attack.access:
            raise AttackError(
                f"{self.attack.name} asked for {query.access.name} but declares access = "
                f"{self.attack.access.name}: raise its declared access or ask for less."
            )
        count = query.points.shape[1] if query.points.dim() == 5 else 1
        if self.free_looks and query.valid is None and bool(live.all()):
            if query.access < Access.GRADIENT:
                return self._of_whole(live, count, with_gradient=False)
            rows = query.gradient_rows
            if rows is None or bool(rows.all()):
                return self._of_whole(live, count, with_gradient=True)
            if not bool(rows.any()):
                return self._of_whole(live, count, with_gradient=False)
        return self._of_part(query, live, count)

    def _of_whole(self, live: Tensor, count: int, *, with_gradient: bool) -> Cost:
        """Say what all points of all rows cost: the last answer where it fits, never written to."""
        asked = _Whole(len(live), count, with_gradient)
        if self._whole_cost is None or self._whole != asked:
            access = Access.GRADIENT if with_gradient else Access.SCORES
            query = Query(live.new_empty(live.shape), access)
            self._whole = asked
            self._whole_cost = self._of_part(query, live, count)._replace(whole=True)
        return self._whole_cost

    def _of_part(self, query: Query, live: Tensor, count: int) -> Cost:
        """Count the points of each row that count."""
        valid = live.unsqueeze(1).expand(-1, count)
        if query.valid is not None:
            valid = valid & query.valid.reshape(len(live), count)
        if query.access < Access.GRADIENT:
            gradient = torch.zeros_like(valid)
        elif query.gradient_rows is None:
            gradient = valid
        else:
            gradient = valid & query.gradient_rows.unsqueeze(1)
        per_point = self.passes.forwards_per_point
        # The surrogate's own passes are not free.
        extra = per_point if self.passes.surrogate is not None else 0
        forward = valid.sum(1) * per_point + gradient.sum(1) * extra
        return Cost(forward, gradient.sum(1) * per_point, valid, gradient)
