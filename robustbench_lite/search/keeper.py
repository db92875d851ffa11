"""What is kept of a step: of each row, the nearest claim in the ball, if a random model votes for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search.attack import Answer, Query
from robustbench_lite.search.claims import Looks, Nearest, Step
from robustbench_lite.search.forward import Points
from robustbench_lite.search.oracle import Cost, Oracle
from robustbench_lite.search.slots import Slots
from robustbench_lite.threat import ThreatModel


class Ballot(NamedTuple):
    """What the votes of a random model say of the nearest claims of M rows."""

    cast: Tensor
    """The point was voted on, (M,) bool: it could matter, and the row could pay."""
    wins: Tensor
    """Votes for it, (M,)."""
    best: Tensor
    """It is the best point of its row so far, (M,) bool."""


@dataclass(frozen=True)
class Keeper:
    """Writes into slots what is to be kept of a step."""

    oracle: Oracle
    threat: ThreatModel
    looks: Looks
    query_budget: int | None

    def keep(self, slots: Slots, query: Query, answer: Answer, cost: Cost) -> Slots:
        """Keep each row's nearest claim in the ball, if it is nearer than what the row has.

        Args:
            slots: written to in part; use what is returned.
            query: what the rows asked.
            answer: what the model said to it.
            cost: which of its points count.

        Returns:
            The slots with points, sizes and faults up to date. In a ball, rows that have found something are done.
        """
        step = Step.of(query, answer, cost)
        claims = self.looks.claims(step, slots, self.threat, only_nearer=self._only_nearer)
        if claims is None:
            return slots
        if self.oracle.attack.kind == "fixed_eps":
            slots = slots.replace(fault=slots.fault.scatter_reduce(0, claims.row, claims.excess, "amax"))
        nearest = self.looks.nearest(claims, step)
        if not self.oracle.holds_votes:
            nearer = nearest.size < slots.best_size[nearest.row]
            return self._write(slots, nearest, nearer, nearer)
        ballot = self._vote(slots, nearest, cost)
        votes = self.oracle.passes.model.traits.votes
        wins = torch.where(ballot.best, ballot.wins, slots.wins[nearest.row])
        slots = slots.replace(
            forward=slots.forward.index_add(0, nearest.row, ballot.cast * votes),
            wins=slots.wins.index_copy(0, nearest.row, wins),
        )
        # A slim majority is kept, and the search goes on: the judge will draw anew.
        sure = wins * 4 >= votes * 3
        return self._write(slots, nearest, ballot.best, ballot.best & sure)

    @property
    def _only_nearer(self) -> bool:
        """Of the claims those alone matter that are nearer than what a row has.

        A search for the nearest answers for no point but the one that is kept, and no vote prefers another.
        """
        return self.oracle.attack.kind == "minimal_distance" and not self.oracle.holds_votes

    @property
    def _first_success_ends(self) -> bool:
        return self.threat.eps is not None

    def _vote(self, slots: Slots, nearest: Nearest, cost: Cost) -> Ballot:
        """Let a random model vote, on new draws, on points whose logits may have been lucky."""
        row, votes = nearest.row, self.oracle.passes.model.traits.votes
        used = (slots.forward + cost.forward)[row]
        cast = nearest.size.isfinite() if self._first_success_ends else nearest.size < slots.best_size[row]
        if self.query_budget is not None:
            cast = cast & (used + (slots.backward + cost.backward)[row] + votes <= self.query_budget)
        points = Points(nearest.points, slots.y[row], slots.target[row], slots.index[row], used)
        wins = self.oracle.vote(points) * cast
        best = wins * 2 > votes
        if self._first_success_ends:
            best &= wins > slots.wins[row]
        return Ballot(cast, wins, best)

    def _write(self, slots: Slots, nearest: Nearest, best: Tensor, ends: Tensor) -> Slots:
        """Write the points that are ``best`` (M,) so far; in a ball they end their rows where ``ends`` (M,)."""
        row = nearest.row
        size = torch.where(best, nearest.size, slots.best_size[row])
        points = torch.where(best.reshape(-1, 1, 1, 1), nearest.points, slots.best[row])
        slots.best.index_copy_(0, row, points)  # in place: a copy of all rows would cost more than the rest
        done = slots.done
        if self._first_success_ends:
            done = done.index_copy(0, row, done[row] | ends)
        return slots.replace(best_size=slots.best_size.index_copy(0, row, size), done=done)
