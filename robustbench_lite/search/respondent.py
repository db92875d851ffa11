"""Who answers the attacks that drive the model: counts, packs, asks and judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.errors import AttackError
from robustbench_lite.model.passes import Passes, Points, not_finite
from robustbench_lite.rows.losses import margin
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.lanes import Request
from robustbench_lite.search.query import Access
from robustbench_lite.search.view import InFlight
from robustbench_lite.threat import ThreatModel


class RowRequest(NamedTuple):
    """A sample, and what it asks."""

    row: InFlight
    request: Request

    @property
    def points(self) -> int:
        """How many points it asks about."""
        return len(self.request.x)


@dataclass(frozen=True)
class Respondent:
    """Answers the requests of many samples in shared batches of the model."""

    attack: Attack
    passes: Passes
    threat: ThreatModel
    query_budget: int | None
    device: torch.device

    def reply(self, asked: Sequence[RowRequest]) -> dict[int, Tensor]:
        """Answer what the samples may ask; the points of requests for logits are judged.

        Returns:
            logits (M, K) or gradients (M, C, H, W), by the sample's position in the task; nothing
            for those whose budget is spent.
        """
        paid = [one for one in asked if self._pay(one)]
        for_logits = [one for one in paid if one.request.weights is None]
        for_gradients = [one for one in paid if one.request.weights is not None]
        replies: dict[int, Tensor] = {}
        if for_logits:
            replies |= _by_position(for_logits, self._logits(for_logits))
        if for_gradients:
            replies |= _by_position(for_gradients, self._gradients(for_gradients))
        return replies

    def _pay(self, asked: RowRequest) -> bool:
        """Count a request, unless it goes beyond the budget."""
        row = asked.row
        points = asked.points * self.passes.forwards_per_point
        wants_gradient = asked.request.weights is not None
        # The surrogate's own passes are not free.
        forward = 0 if wants_gradient and self.passes.surrogate is None else points
        backward = points if wants_gradient else 0
        total = row.spent + row.forward + row.backward + forward + backward
        if self.query_budget is not None and total > self.query_budget:
            return False
        row.forward += forward
        row.backward += backward
        return True

    def _pack(self, asked: Sequence[RowRequest]) -> Points:
        """Lay the points of all requests side by side, on the model's device."""
        count = torch.tensor([one.points for one in asked])
        offset = torch.cat([torch.arange(one.points) for one in asked])
        draw = torch.tensor([one.request.draw for one in asked]).repeat_interleave(count)
        points = Points(
            x=torch.cat([one.request.x for one in asked]).float(),
            y=torch.cat([one.row.y for one in asked]).repeat_interleave(count),
            target=torch.cat([one.row.target for one in asked]).repeat_interleave(count),
            sample=torch.tensor([one.row.index for one in asked]).repeat_interleave(count),
            draw=draw + offset * self.passes.forwards_per_point,
        )
        return Points(*(column.to(self.device) for column in points))

    def _logits(self, asked: Sequence[RowRequest]) -> list[Tensor]:
        """Compute logits for each request, (M, K), and judge the points on the way."""
        points = self._pack(asked)
        logits = self.passes.logits(points)
        self._judge(asked, points, margin(logits, points.y, points.target))
        if self.attack.access < Access.SCORES:
            logits = F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
        return _split(logits.cpu(), asked)

    def _gradients(self, asked: Sequence[RowRequest]) -> list[Tensor]:
        """Compute gradients for each request, (M, C, H, W)."""
        points = self._pack(asked)
        given = [one.request.weights for one in asked if one.request.weights is not None]
        weights = torch.cat(given).to(self.device)
        parts = []
        for start in range(0, len(points.x), self.passes.batch_size):
            rows = slice(start, start + self.passes.batch_size)
            found = self.passes.gradient(points.take(rows), _weighted_sum(weights[rows]))
            parts.append(found.gradient)
        return _split(torch.cat(parts).cpu(), asked)

    def _judge(self, asked: Sequence[RowRequest], points: Points, margins: Tensor) -> None:
        """Keep the nearest success in the ball of each sample.

        Points outside of it are steps on the way, and no error.
        """
        wrong = (~margins.isfinite()).nonzero().squeeze(1)
        if len(wrong):
            raise self._error(int(points.sample[wrong[0]]), points.x[wrong[0]])
        clean = torch.cat([one.row.x.expand(one.points, -1, -1, -1) for one in asked])
        clean = clean.to(self.device)
        size = self.threat.norm.size(points.x - clean)
        hit = (margins < 0) & (self.threat.excess(points.x, clean) <= 0)
        sizes = _split(size.masked_fill(~hit, float("inf")).cpu(), asked)
        for one, x_adv, own in zip(asked, _split(points.x, asked), sizes, strict=True):
            one.row.keep_nearest(x_adv, own)

    def _error(self, sample: int, point: Tensor) -> Exception:
        """Say whose fault it is that the model's output at ``point`` is no number."""
        if bool(point.isfinite().all()):
            return not_finite(sample)
        return AttackError(f"{self.attack.name} produced NaN for sample {sample}.")


def _by_position(asked: Sequence[RowRequest], replies: Sequence[Tensor]) -> dict[int, Tensor]:
    return {one.row.position: reply for one, reply in zip(asked, replies, strict=True)}


def _split(packed: Tensor, asked: Sequence[RowRequest]) -> list[Tensor]:
    """Give each request its own rows of what was ``packed``."""
    return list(torch.split(packed, [one.points for one in asked]))


def _weighted_sum(weights: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # The last logits may belong to padding, which has no weights.
    return lambda logits, y, target: (logits[: len(weights)] * weights).sum(1)
