"""What differs between the norms of the Carlini-Wagner attack: the distance term, and what the next run of Adam tries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search.attack import State
from robustbench_lite.threat.norms import per_row

GROWTH = 10.0
"""L2: by how much c grows until the first success."""
SHRINK, DOUBLE, LARGEST_CONST, CLOSE = 0.9, 2.0, 20.0, 0.02
"""Linf: factors of tau and c, the c at which a tau is given up (the authors' code), and our tolerance."""


@dataclass(frozen=True)
class CarliniWagnerState(State):
    x: Tensor
    x_adv: Tensor  # (tanh(w) + 1) / 2 of the paper: the sigmoid of v
    v: Tensor  # 2 w
    start: Tensor  # where the next run begins, shaped as v
    mean: Tensor  # Adam's moments, shaped as v
    square: Tensor
    step: Tensor  # (B,) steps of this run of Adam
    spent: Tensor  # (B,) steps charged for the runs before
    const: Tensor  # (B,) c of the paper
    known: Tensor  # (B,) c of the last success, or the first c; Linf only
    tau: Tensor  # (B,) changes up to tau are free; Linf only
    low: Tensor  # (B,) largest c (L2) or tau (Linf) known to fail, and smallest known to succeed
    high: Tensor
    hit: Tensor  # (B,) bool: this run has succeeded
    checked: Tensor  # (B,) loss when progress was last looked at
    distance: Distance


class Term(NamedTuple):
    value: Tensor  # (B,)
    slope: Tensor  # half the gradient by delta, (B, C, H, W)
    size: Tensor  # of delta in the norm, (B,)


class Distance(ABC):
    """What differs between the norms: the distance term of the loss, and what the next run of Adam tries."""

    ends_on_hit: ClassVar[bool]
    hit_value: ClassVar[float]  # largest distance term of a success

    @abstractmethod
    def term(self, delta: Tensor, tau: Tensor) -> Term:
        """The distance term of each row. May reuse the memory of ``delta`` (B, C, H, W), which the caller gives away."""

    @abstractmethod
    def next_run(self, s: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        """Move the bracket and set c and tau of rows whose run is ``over`` (B,), charging what it cost of ``steps``."""


class SquaredL2(Distance):
    """Minimise ||delta||^2 + c f(x + delta): c grows until the first success, then is bisected (section VI.A)."""

    ends_on_hit, hit_value = False, float("inf")

    def term(self, delta: Tensor, tau: Tensor) -> Term:
        flat = delta.flatten(1)
        value = torch.linalg.vecdot(flat, flat)
        return Term(value, delta, value.sqrt())

    def next_run(self, s: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        high = torch.where(over & s.hit, s.const, s.high)
        low = torch.where(over & ~s.hit, s.const, s.low)
        const = torch.where(high.isfinite(), (low + high) / 2, GROWTH * s.const)
        return s.replace(low=low, high=high, const=torch.where(over, const, s.const), spent=s.spent + over * steps)


class ExcessLinf(Distance):
    """Minimise sum max(|delta| - tau, 0) + c f(x + delta): tau shrinks at each success (section VI.C).

    Runs begin at the last success. The authors stop at the first tau that fails, or below 1/256. Here the gap to the last one
    that succeeded is halved until it is 2 %, however small they are.
    """

    ends_on_hit, hit_value = True, 0.0

    def term(self, delta: Tensor, tau: Tensor) -> Term:
        change = delta.abs()
        excess = (change - per_row(tau, delta)).clamp_min_(0)
        return Term(excess.flatten(1).sum(1), delta.sign().mul_(excess.sign()).div_(2), change.flatten(1).amax(1))

    def next_run(self, s: CarliniWagnerState, over: Tensor, steps: int) -> CarliniWagnerState:
        size = (s.x_adv - s.x).abs().flatten(1).amax(1)
        won, failed = over & s.hit, over & ~s.hit
        given_up = failed & (s.const >= LARGEST_CONST)
        high, low = torch.where(won, size, s.high), torch.where(given_up, s.tau, s.low)
        tau = torch.where(won | given_up, torch.maximum(SHRINK * high, (low + high) / 2), s.tau)
        known = torch.where(won, s.const, s.known)
        const = torch.where(failed, torch.where(given_up, known, DOUBLE * s.const), s.const)
        start = torch.where(won.reshape(-1, 1, 1, 1), s.v, s.start)
        done = over & ((high - low < CLOSE * high) | (given_up & high.isinf()))
        return s.replace(
            low=low, high=high, tau=tau, const=const, known=known, start=start, spent=s.spent + over * s.step,
            finished=s.finished | done,
        )  # fmt: skip


DISTANCES: dict[str, Distance] = {"l2": SquaredL2(), "linf": ExcessLinf()}
