"""Which classes a search drives a row to, one after the other, and in which order.

The search asks at the clean image first, until a row's order is known, and then runs once for each
class::

    turns = self._targets.begin(y)
    ...
    points = torch.where(turns.ranking.reshape(-1, 1, 1, 1), x, x_adv)
    loss = self._targets.loss(difference_of_logits_ratio)
    rows = self._targets.wants_gradient(turns) | ...
    Query.gradient(points, loss, rows=rows, toward=self._targets.toward(turns))
    ...
    turns = self._targets.rank(turns, answer, norm)  # rows that are not ranking stay as they are
    turns = turns.next(over)

The ranking by distance is that of MALT (Melamed et al. 2024, arXiv:2407.02240).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.errors import UsageError
from robustbench_lite.rows.looks import surely_none
from robustbench_lite.rows.losses import Loss, logit_difference
from robustbench_lite.rows.rows import Rows
from robustbench_lite.search.query import Answer
from robustbench_lite.threat import ThreatModel, Untargeted
from robustbench_lite.threat.norms import Norm

CANDIDATES = 9
"""Classes that ``malt`` measures, those of the largest logits."""
MOST = 1000
"""Classes that a row is driven to, at most: ``all`` of ImageNet's."""
Rule = Literal["none", "all", "top", "malt"]


@dataclass(frozen=True)
class TargetTurns(Rows):
    """Where each row stands among its classes."""

    y: Tensor
    """The true classes, (B,)."""
    order: Tensor
    """Classes, the first to be driven to in front, (B, W) int32; -1 where there are no more."""
    number: Tensor
    """How many of them are used, (B,) int64; 0 until it is known."""
    place: Tensor
    """Which of them is driven to now, (B,) int64."""
    ranking: Tensor
    """Rows whose order is not known yet: they ask at the clean image, (B,) bool."""
    ratio: Tensor
    """Linearised distances to the candidates, (B, W); (B, 0) where the logits decide."""
    ranked: Tensor
    """How many of the distances are known, (B,) int64."""

    @property
    def now(self) -> Tensor:
        """The class that each row is driven to, or that it ranks, (B,) int64; -1 for none."""
        # While a row ranks, the candidate whose distance is measured next.
        place = torch.where(self.ranking, self.ranked, self.place)
        place = place.clamp(max=self.order.shape[1] - 1).unsqueeze(1)
        return self.order.gather(1, place).squeeze(1).to(torch.int64)

    @property
    def over(self) -> Tensor:
        """Rows that have been driven to all of their classes, (B,) bool."""
        return ~self.ranking & (self.place >= self.number)

    def next(self, rows: Tensor) -> TargetTurns:
        """Go on to the next class in ``rows`` (B,) bool."""
        return self.replace(place=self.place + rows)


@dataclass(frozen=True)
class Targets:
    """A rule that names the classes a row is driven to, parsed from a text."""

    rule: Rule
    limit: int
    """Classes of a row, at most: as many as there are where the model has fewer."""

    @classmethod
    def parse(cls, text: str) -> Targets:
        """Read ``none``, ``all``, ``top:K`` or ``malt:K``.

        ``none`` is an untargeted loss. ``all`` are the wrong classes and ``top:K`` the first K of
        them, in the order of the logits at the clean image, largest first. ``malt:K`` measures the
        first 9 of these by (z_y - z_j) / ||gradient of z_y - z_j||, in the norm dual to the
        threat's, and drives to the K nearest.

        Raises:
            UsageError: it is none of these.
        """
        match = re.fullmatch(r"(?P<rule>none|all)|(?P<some>top|malt):(?P<limit>[1-9]\d{0,5})", text)
        if match is None:
            raise UsageError(f"targets can be none, all, top:K or malt:K, as in top:9: not {text}.")
        if match["rule"] == "none":
            return cls("none", 1)
        if match["rule"] == "all":
            return cls("all", MOST)
        rule: Rule = "top" if match["some"] == "top" else "malt"
        most = MOST if rule == "top" else CANDIDATES
        if int(match["limit"]) > most:
            raise UsageError(f"targets can be {rule}:1 to {rule}:{most}, not {text}.")
        return cls(rule, int(match["limit"]))

    def check(self, attack: str, threat: ThreatModel) -> None:
        """Refuse to choose classes where the goal of ``threat`` names the one to reach.

        Raises:
            UsageError: that is so; it says that ``attack`` needs targets=none.
        """
        if self.rule != "none" and not isinstance(threat.goal, Untargeted):
            named = f"The goal {threat.goal.spec()} names the class to reach"
            raise UsageError(f"{named}: run '{attack} targets=none'.")

    def begin(self, y: Tensor) -> TargetTurns:
        """Make the turns of fresh rows, of the true classes ``y`` (B,)."""
        zero = torch.zeros_like(y)
        chosen = self.rule != "none"
        width = CANDIDATES if self.rule == "malt" else self.limit
        measured = width if self.rule == "malt" else 0
        return TargetTurns(
            y=y,
            order=torch.full((len(y), width), -1, dtype=torch.int32, device=y.device),
            number=zero if chosen else zero + 1,
            place=zero,
            ranking=torch.full_like(zero, chosen, dtype=torch.bool),
            ratio=torch.full((len(y), measured), float("inf"), device=y.device),
            ranked=zero.clone(),
        )

    def toward(self, turns: TargetTurns) -> Tensor | None:
        """Say which class each row's loss drives to, as ``loss`` reads it, (B,).

        Returns:
            ``Query.toward``: a class; below 0 for rows that rank. None where the goal decides.
        """
        if self.rule == "none":
            return None
        now = turns.now
        return torch.where(turns.ranking, -2 - now, now)

    def loss(self, search: Loss) -> Loss:
        """Make the loss of a query that some rows ask in order to rank, and others to ``search``.

        Returns:
            ``search`` where a class is driven to; z_j - z_y for the candidate j in rows that rank,
            at first with the best rival for j.
        """
        return search if self.rule == "none" else _RankOr(search)

    def wants_gradient(self, turns: TargetTurns) -> Tensor:
        """Find the rows that rank and need the gradient for it, (B,) bool."""
        return turns.ranking if self.rule == "malt" else torch.zeros_like(turns.ranking)

    def rank(self, turns: TargetTurns, answer: Answer, norm: Norm) -> TargetTurns:
        """Take what the clean image was answered in the rows that rank; leave the others.

        Args:
            turns: before the answer.
            answer: with logits, and with losses and gradients for ``malt``.
            norm: that of the threat.
        """
        if surely_none(turns.ranking):
            return turns
        turns = self._list_candidates(turns, answer.need_logits())
        if self.rule == "malt":
            return self._measure(turns, answer, norm)
        return turns.replace(ranking=torch.zeros_like(turns.ranking))

    def _list_candidates(self, turns: TargetTurns, logits: Tensor) -> TargetTurns:
        """The classes by their logits, in rows that are asked for the first time."""
        width = min(turns.order.shape[1], logits.shape[1] - 1)
        rivals = logits.scatter(1, turns.y.unsqueeze(1), float("-inf"))
        order = rivals.argsort(dim=1, descending=True, stable=True)[:, :width].to(torch.int32)
        order = F.pad(order, (0, turns.order.shape[1] - width), value=-1)
        fresh = turns.ranking & (turns.ranked == 0)
        return turns.replace(
            order=torch.where(fresh.unsqueeze(1), order, turns.order),
            number=turns.number.masked_fill(fresh, min(width, self.limit)),
        )

    def _measure(self, turns: TargetTurns, answer: Answer, norm: Norm) -> TargetTurns:
        """The distance to one more candidate; the order, in rows that know all distances."""
        size = norm.dual_size(answer.need_gradient())
        ratio = -answer.need_loss() / size.clamp_min(torch.finfo(size.dtype).tiny)
        at = torch.arange(turns.order.shape[1], device=ratio.device)
        here = turns.ranking.unsqueeze(1) & (at == turns.ranked.unsqueeze(1))
        ratios = torch.where(here, ratio.unsqueeze(1), turns.ratio)
        ranked = turns.ranked + turns.ranking
        count = (turns.order >= 0).sum(1)
        ends = turns.ranking & (ranked >= count)
        # A class that is not there stays behind all others, whose distances may be inf as well.
        missing = at >= count.unsqueeze(1)
        by_ratio = ratios.masked_fill(missing, float("nan")).argsort(dim=1, stable=True)
        order = torch.where(ends.unsqueeze(1), turns.order.gather(1, by_ratio), turns.order)
        return turns.replace(
            order=order, ratio=ratios, ranked=ranked, ranking=turns.ranking & ~ends
        )


@dataclass(frozen=True)
class _RankOr:
    """The loss of a search, or that of rows that rank, whose target is -2 - candidate."""

    search: Loss

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        ranks = target < 0
        if surely_none(ranks):
            return self.search(logits, y, target)
        rival = logit_difference(logits, y, -2 - target)
        return torch.where(ranks, rival, self.search(logits, y, target.clamp_min(0)))
