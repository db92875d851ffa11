"""What becomes of the points that a step claims to be adversarial: the nearest of each row is kept.

Four questions stand behind it. Which points are claims? Do they lie in the ball? Which is the row's
nearest? And, for a random model, does it hold in a vote? Where a look at a tensor is free, only the
claims are worked on; an accelerator would have to wait for each look, and all points are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.model.passes import Points
from robustbench_lite.search.cost import Cost
from robustbench_lite.search.oracle import Oracle
from robustbench_lite.search.query import Answer, Query
from robustbench_lite.search.slots import Slots
from robustbench_lite.threat import ThreatModel


class Claims(NamedTuple):
    """N points of one step, in the order of their rows."""

    number: Tensor
    """Which of the B P points of the step each one is, (N,)."""
    row: Tensor
    """The row that it belongs to, (N,)."""
    x_adv: Tensor
    """(N, C, H, W)."""
    size: Tensor
    """Its distance from the clean image, (N,); inf where it is no success."""
    excess: Tensor
    """By how much a success leaves the ball or the bounds, (N,); -inf where it is none."""

    def within(self) -> Claims:
        """Put those outside of the ball or the bounds at an infinite distance."""
        return self._replace(size=self.size.masked_fill(~(self.excess <= 0), float("inf")))


class Nearest(NamedTuple):
    """The nearest claim of each of M rows."""

    row: Tensor
    """(M,)."""
    x_adv: Tensor
    """(M, C, H, W)."""
    size: Tensor
    """(M,); inf where no claim of the row counts."""


class Ballot(NamedTuple):
    """What is thought of the nearest claims of M rows."""

    slots: Slots
    """As they are after paying for a vote."""
    best: Tensor
    """The claim is the best of its row so far, (M,) bool."""
    sure: Tensor
    """It ends the search where a first success does, (M,) bool."""


class Places(NamedTuple):
    """Where N claims go in a table of M rows."""

    rows: Tensor
    """The rows to compare, (M,)."""
    place: Tensor
    """The place of each claim's row among them, (N,)."""


class Gatherer(ABC):
    """Finds the claims of a step, and the nearest one of each row."""

    def __init__(self, threat: ThreatModel) -> None:
        self.threat = threat

    @abstractmethod
    def gather(self, hits: Tensor, points: Tensor, slots: Slots) -> Claims | None:
        """Find the claims of a step; None where there are none.

        Args:
            hits: which points are successes, (B, P) bool.
            points: all that were asked about, (B P, C, H, W).
            slots: the rows.
        """

    @abstractmethod
    def _places(self, row: Tensor, rows: int) -> Places:
        """Lay out claims of the rows ``row`` (N,), of ``rows`` rows in all."""

    def nearest(self, claims: Claims, points: Tensor, rows: int) -> Nearest:
        """Find the nearest claim of each row, of ``rows`` rows with equally many ``points``."""
        count = len(points) // rows
        if count == 1:
            return Nearest(claims.row, claims.x_adv, claims.size)
        index, place = self._places(claims.row, rows)
        sizes = claims.size.new_full((len(index), count), float("inf"))
        sizes = sizes.index_put_((place, claims.number % count), claims.size)
        size, nearest = sizes.min(1)
        return Nearest(index, points.index_select(0, index * count + nearest), size)


class LookingGatherer(Gatherer):
    """Where a look is free: works on the successes alone.

    With ``only_nearer`` also on no claim that lies farther than what its row has: right where
    nobody answers for points that are not kept.
    """

    def __init__(self, threat: ThreatModel, *, only_nearer: bool) -> None:
        super().__init__(threat)
        self.only_nearer = only_nearer

    def gather(self, hits: Tensor, points: Tensor, slots: Slots) -> Claims | None:
        number = hits.flatten().nonzero().squeeze(1)
        if not len(number):
            return None
        count = hits.shape[1]
        row = number if count == 1 else number // count
        x_adv = points.index_select(0, number)
        clean = slots.x.index_select(0, row)
        size = self.threat.norm.size(x_adv - clean)
        if self.only_nearer:
            nearer = (size < slots.best_size[row]).nonzero().squeeze(1)
            if not len(nearer):
                return None
            kept = (part.index_select(0, nearer) for part in (number, row, x_adv, clean, size))
            number, row, x_adv, clean, size = kept
        return Claims(number, row, x_adv, size, self.threat.excess(x_adv, clean, size))

    def _places(self, row: Tensor, rows: int) -> Places:
        return Places(*torch.unique_consecutive(row, return_inverse=True))


class BlindGatherer(Gatherer):
    """Where a look has to wait for the device: works on all points.

    It masks those that are no success.
    """

    def gather(self, hits: Tensor, points: Tensor, slots: Slots) -> Claims:
        flat = hits.flatten()
        count = hits.shape[1]
        number = torch.arange(len(flat), device=flat.device)
        row = number if count == 1 else number // count
        x_adv = points.index_select(0, number)
        clean = slots.x.index_select(0, row)
        size = self.threat.norm.size(x_adv - clean)
        excess = self.threat.excess(x_adv, clean, size)
        size = size.masked_fill(~flat, float("inf"))
        excess = excess.masked_fill(~flat, float("-inf"))
        return Claims(number, row, x_adv, size, excess)

    def _places(self, row: Tensor, rows: int) -> Places:
        return Places(torch.arange(rows, device=row.device), row)


@dataclass(frozen=True)
class Keeper:
    """Keeps the nearest success of each row, and ends rows that need no nearer one."""

    oracle: Oracle
    threat: ThreatModel
    gatherer: Gatherer
    fixed_eps: bool
    """The attack answers for every point that it claims; only to explore may it leave the ball."""
    query_budget: int | None

    @classmethod
    def of(cls, oracle: Oracle, threat: ThreatModel, query_budget: int | None) -> Keeper:
        """Make the keeper for the attack and the device of ``oracle``."""
        fixed_eps = oracle.attack.kind == "fixed_eps"
        gatherer: Gatherer = BlindGatherer(threat)
        if oracle.free_looks:
            # A minimal-distance attack answers for no point but the one that is kept, and a vote
            # cannot prefer a farther one.
            gatherer = LookingGatherer(threat, only_nearer=not fixed_eps and not oracle.holds_votes)
        return cls(oracle, threat, gatherer, fixed_eps, query_budget)

    @property
    def first_success_ends(self) -> bool:
        """In a ball there is nothing to be gained by a nearer point."""
        return self.threat.eps is not None

    def keep(self, slots: Slots, query: Query, answer: Answer, cost: Cost) -> Slots:
        """Take what the points of ``query`` have brought into ``slots``."""
        hits = answer.success.reshape(cost.valid.shape)  # (B, P)
        hits = hits if cost.whole else hits & cost.valid
        points = query.points.reshape(-1, *slots.x.shape[1:])  # (B P, C, H, W)
        claims = self.gatherer.gather(hits, points, slots)
        if claims is None:
            return slots
        fault = slots.fault
        if self.fixed_eps:
            excess = claims.excess
            if query.explores is not None:
                excess = excess.masked_fill(query.explores[claims.row], float("-inf"))
            fault = fault.scatter_reduce(0, claims.row, excess, "amax")
        nearest = self.gatherer.nearest(claims.within(), points, len(hits))
        ballot = self._ballot(slots, nearest, cost)
        return self._write(ballot, nearest).replace(fault=fault)

    def _ballot(self, slots: Slots, nearest: Nearest, cost: Cost) -> Ballot:
        if self.oracle.holds_votes:
            return self._vote(slots, nearest, cost)
        best = nearest.size < slots.best_size[nearest.row]
        return Ballot(slots, best, torch.ones_like(best))

    def _vote(self, slots: Slots, nearest: Nearest, cost: Cost) -> Ballot:
        """Let a random model vote: its logits may have been lucky, and the judge will draw anew.

        Three of four votes end the search in a ball. A slim majority is kept, and it goes on.
        """
        votes = self.oracle.passes.model.traits.votes
        row = nearest.row
        used = (slots.forward + cost.forward)[row]
        asked = nearest.size.isfinite()
        if not self.first_success_ends:
            asked = nearest.size < slots.best_size[row]
        if self.query_budget is not None:
            paid = used + (slots.spent + slots.backward + cost.backward)[row] + votes
            asked = asked & (paid <= self.query_budget)
        rows = Points(nearest.x_adv, slots.y[row], slots.target[row], slots.index[row], used)
        wins = self.oracle.vote(rows) * asked
        best = wins * 2 > votes
        if self.first_success_ends:
            best &= wins > slots.wins[row]
        wins = torch.where(best, wins, slots.wins[row])
        slots = slots.replace(
            forward=slots.forward.index_add(0, row, asked * votes),
            wins=slots.wins.index_copy(0, row, wins),
        )
        return Ballot(slots, best, wins * 4 >= votes * 3)

    def _write(self, ballot: Ballot, nearest: Nearest) -> Slots:
        """Write the claims that are the best of their rows into the slots."""
        slots, best, sure = ballot
        row = nearest.row
        size = torch.where(best, nearest.size, slots.best_size[row])
        x_adv = torch.where(best.reshape(-1, 1, 1, 1), nearest.x_adv, slots.best[row])
        slots.best.index_copy_(0, row, x_adv)  # a copy of all rows costs more than the rest
        done = slots.done
        if self.first_success_ends:
            done = done.index_copy(0, row, done[row] | (best & sure))
        return slots.replace(best_size=slots.best_size.index_copy(0, row, size), done=done)
