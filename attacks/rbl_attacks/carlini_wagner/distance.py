"""What differs between the norms of the Carlini-Wagner attack.

The distance term of the loss, and what the next run of Adam tries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search import Bracket, Moments, State
from robustbench_lite.threat.norms import per_row

SHRINK = 0.9
DOUBLE = 2.0
"""Linf: factors of tau at a success, and of c at a failure."""
LARGEST_CONST = 20.0
"""Linf: the c at which a tau is given up (the authors' code)."""
CLOSE = 0.02
"""Linf: how close the largest tau that fails comes to the smallest that succeeds (ours)."""


@dataclass(frozen=True)
class CarliniWagnerState(State):
    x: Tensor
    x_adv: Tensor  # (tanh(w) + 1) / 2 of the paper: the sigmoid of v
    v: Tensor  # 2 w
    start: Tensor  # where the next run begins, shaped as v
    moments: Moments  # of a quarter of the gradient by w
    step: Tensor  # (B,) steps of this run of Adam
    spent: Tensor  # (B,) steps charged for the runs before
    const: Tensor  # (B,) c of the paper
    known: Tensor  # (B,) c of the last success, or the first c; Linf only
    tau: Tensor  # (B,) changes up to tau are free; Linf only
    bracket: Bracket  # of c (L2), or of tau (Linf)
    hit: Tensor  # (B,) bool: this run has succeeded
    checked: Tensor  # (B,) loss when progress was last looked at
    distance: Distance


class Term(NamedTuple):
    """The distance term of the loss."""

    value: Tensor
    """(B,)."""
    slope: Tensor
    """Half its gradient by delta, (B, C, H, W)."""
    size: Tensor
    """Of delta in the norm, (B,)."""


class Distance(ABC):
    """What differs between the norms: the distance term, and what the next run of Adam tries."""

    ends_on_hit: ClassVar[bool]
    """A run is over at its first success."""
    hit_value: ClassVar[float]
    """Largest distance term of a success."""

    @abstractmethod
    def term(self, delta: Tensor, tau: Tensor) -> Term:
        """The distance term of ``delta`` (B, C, H, W), whose memory the caller gives away."""

    @abstractmethod
    def next_run(self, state: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        """Set c and tau of rows whose run is ``over`` (B,), charging what it cost of ``steps``."""


class SquaredL2(Distance):
    """Minimise ||delta||^2 + c f(x + delta), for the smallest c that succeeds (section VI.A)."""

    ends_on_hit = False
    hit_value = float("inf")

    def term(self, delta: Tensor, tau: Tensor) -> Term:
        flat = delta.flatten(1)
        value = torch.linalg.vecdot(flat, flat)
        return Term(value, delta, value.sqrt())

    def next_run(self, state: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        failed = over & ~state.hit
        won = over & state.hit
        bracket = state.bracket.narrow(state.const, failed=failed, succeeded=won)
        const = torch.where(over, bracket.next_after(state.const), state.const)
        return state.replace(bracket=bracket, const=const, spent=state.spent + over * steps)


class ExcessLinf(Distance):
    """Minimise sum max(|delta| - tau, 0) + c f(x + delta): tau shrinks at each success (VI.C).

    Runs begin at the last success. The authors stop at the first tau that fails, or below 1/256.
    Here the gap to the last one that succeeded is halved until it is 2 %, however small they are.
    """

    ends_on_hit = True
    hit_value = 0.0

    def term(self, delta: Tensor, tau: Tensor) -> Term:
        change = delta.abs()
        excess = (change - per_row(tau, delta)).clamp_min_(0)
        slope = delta.sign().mul_(excess.sign()).div_(2)
        return Term(excess.flatten(1).sum(1), slope, change.flatten(1).amax(1))

    def next_run(self, state: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        size = (state.x_adv - state.x).abs().flatten(1).amax(1)
        won = over & state.hit
        failed = over & ~state.hit
        given_up = failed & (state.const >= LARGEST_CONST)
        high = torch.where(won, size, state.bracket.high)
        low = torch.where(given_up, state.tau, state.bracket.low)
        bracket = Bracket(low, high)
        smaller = torch.maximum(SHRINK * high, bracket.middle)
        known = torch.where(won, state.const, state.known)
        again = torch.where(given_up, known, DOUBLE * state.const)
        done = over & ((high - low < CLOSE * high) | (given_up & high.isinf()))
        return state.replace(
            bracket=bracket,
            tau=torch.where(won | given_up, smaller, state.tau),
            known=known,
            const=torch.where(failed, again, state.const),
            start=torch.where(won.reshape(-1, 1, 1, 1), state.v, state.start),
            spent=state.spent + over * state.step,
            finished=state.finished | done,
        )


DISTANCES: dict[str, Distance] = {"l2": SquaredL2(), "linf": ExcessLinf()}
