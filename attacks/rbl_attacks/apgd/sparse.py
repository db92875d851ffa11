"""How Auto-PGD climbs in L1. Croce and Hein 2021, "Mind the box", arXiv:2103.01208."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rbl_attacks.apgd.climb import Climb
from rbl_attacks.apgd.walks import AfterCheck, Walk
from robustbench_lite.search import SampleRng
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.box import project_l1_in_box

PHASES = 3
"""Radii of 3, 2 and 1 eps: the later ones begin at the best point of the one before."""
WINDOW = 4
"""Hundredths of a phase's steps from one checkpoint to the next."""
DENSER = 1.5
"""A step moves as many coordinates as differ at the best point, divided by this (alpha)."""
SPARSER = 0.95
"""Where the support has shrunk to less than this, steps are long again."""
SHORTER = 1.5
SHORTEST = 10.0
"""Elsewhere they are divided by the one, down to a radius divided by the other."""


@dataclass(frozen=True, kw_only=True)
class SparseWalk(Walk):
    """L1: steps along the largest entries of the gradient, projected on ball and box at once."""

    @property
    def phases(self) -> int:
        return PHASES

    @property
    def first_phase(self) -> int:
        return 0 if self._early else PHASES - 1

    @property
    def _early(self) -> int:
        """Steps of the first two phases, each: three tenths."""
        return -(-3 * self.steps // 10) if self.steps >= PHASES else 0

    def lengths(self, phase: Tensor) -> Tensor:
        early = torch.full_like(phase, self._early)
        return early.masked_fill(phase == PHASES - 1, self.steps - 2 * self._early)

    def noise(self, x: Tensor, threat: ThreatModel, rng: SampleRng, draw: Tensor) -> Tensor:
        delta = rng.stream("start").normal(draw, tuple(x.shape[1:]))
        widest = torch.full((len(x),), PHASES * threat.radius, device=x.device)
        return (x + project_l1_in_box(delta, widest, x)).clamp_(0, 1)

    def begin(self, x: Tensor, x_adv: Tensor, phase: Tensor, threat: ThreatModel) -> Climb:
        radius = _radius(phase, threat)
        delta = project_l1_in_box(x_adv - x, radius, x)
        window = (self.lengths(phase) * WINDOW // 100).clamp_min(1)
        climb = Climb.begin((x + delta).clamp_(0, 1), window, radius)
        support = _support(climb.x_adv, x)
        return climb.replace(support=support, density=support / x[0].numel() / DENSER)

    def check(self, climb: Climb, x: Tensor, phase: Tensor, threat: ThreatModel) -> AfterCheck:
        due = climb.since == climb.window
        support = _support(climb.x_best, x)
        sparser = due & (support < SPARSER * climb.support)
        radius = _radius(phase, threat)
        shorter = torch.maximum(climb.step_size / SHORTER, radius / SHORTEST)
        step_size = torch.where(sparser, radius, torch.where(due, shorter, climb.step_size))
        climb = climb.replace(
            since=climb.since.masked_fill(due, 0),
            step_size=step_size,
            support=torch.where(due, support, climb.support),
            density=torch.where(due, support / x[0].numel() / DENSER, climb.density),
        )
        return AfterCheck(climb, sparser)

    def step(
        self, climb: Climb, gradient: Tensor, x: Tensor, phase: Tensor, threat: ThreatModel
    ) -> Tensor:
        size = gradient.abs().flatten(1)
        count = size.shape[1]
        place = ((1 - climb.density) * count).clamp(0, count - 1).to(torch.int64)
        least = size.sort(1).values.gather(1, place.unsqueeze(1))
        ascent = gradient.flatten(1).sign().mul_(size >= least)
        length = climb.step_size / ascent.abs().sum(1).clamp_min(1)
        delta = torch.addcmul((climb.x_adv - x).flatten(1), length.unsqueeze(1), ascent)
        delta = project_l1_in_box(delta.reshape(x.shape), _radius(phase, threat), x)
        return (x + delta).clamp_(0, 1)


def _radius(phase: Tensor, threat: ThreatModel) -> Tensor:
    """That of each row's phase, (B,)."""
    return (PHASES - phase) * threat.radius


def _support(x_adv: Tensor, x: Tensor) -> Tensor:
    """How many coordinates differ, (B,) float32."""
    return (x_adv != x).flatten(1).sum(1).to(x.dtype)
