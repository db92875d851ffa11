"""Boundary attack. Brendel et al. 2018, "Decision-based adversarial attacks", arXiv:1712.04248."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Attack, Query, State
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import per_row

FIRST_STEP, FACTOR, CONVERGED = 0.01, 1.5, 1e-7
"""First delta and epsilon, by how much they change at once, and the epsilon of a row that has converged: the authors' code."""
SPHERE_WINDOW, JOINT_WINDOW = 20, 30
"""Moves between two changes of a step size. The paper counts 100 orthogonal moves; 20 settle five times sooner."""


@dataclass(frozen=True)
class BoundaryState(State):
    x: Tensor
    current: Tensor  # where the row stands: in noise, on the way to the boundary, on the walk
    points: Tensor  # (B, P + 1, C, H, W), what is asked next: P proposals, and the orthogonal move of the last one alone
    stage: Tensor  # (B,) 0 looks for noise that succeeds, 1 to ``bisections`` narrow it down to the boundary, then it walks
    low: Tensor  # (B,) largest share of the way from the image to ``current`` that is known to fail
    asked: Tensor  # (B,) queries so far
    tried: Tensor  # (B,) proposals so far
    orthogonal: Tensor  # (B,) delta of the paper; ``towards`` is its epsilon
    towards: Tensor
    counts: Tensor  # (B, 4) trials and successes of orthogonal moves, then of whole proposals, since the step last changed
    rng: SampleRng


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    """Walk along the decision boundary towards the image, seeing labels only.

    Deviations, each for a nearer point at the same number of queries: several proposals from one point, of which the nearest
    success is taken (so steps grow at lower rates of success), in opposite pairs (half of the random numbers); shorter windows;
    blended noise of several grains (uniform noise is one class to many networks), narrowed down to the boundary.

    Args:
        steps: proposals that a row tries, ``proposals`` from one point; with the tested orthogonal moves 1.1 queries a step.
        proposals: points tried from one place.
        bisections: queries that narrow the first success down to the boundary, each by a factor of ``proposals`` + 2.
        start_draws: draws of noise after which a row counts as not attackable.
    """

    name: ClassVar[str] = "boundary"
    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    kind: ClassVar[Literal["fixed_eps", "minimal_distance"]] = "minimal_distance"
    targeted: ClassVar[bool] = False
    paper: ClassVar[str] = "Brendel et al. 2018, arXiv:1712.04248"

    steps: int = 25_000
    proposals: int = 6
    bisections: int = 3
    start_draws: int = 20

    def __post_init__(self) -> None:
        if min(self.steps, self.proposals, self.start_draws) < 1 or self.bisections < 0:
            raise UsageError("boundary needs steps, proposals and start_draws of at least 1, and no negative bisections.")

    @property
    def walking(self) -> int:
        """The stage of rows that walk."""
        return self.bisections + 1

    def points(self, shape: tuple[int, ...]) -> int:
        return self.proposals + 1

    def progress(self, state: BoundaryState) -> Tensor:
        return (state.tried / self.steps).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> BoundaryState:
        zeros = torch.zeros_like(y)
        zero, counts = torch.zeros(len(x), device=x.device), torch.zeros(len(x), 4, device=x.device)
        state = BoundaryState(
            finished=zeros.bool(), x=x, current=x, points=x.unsqueeze(1).repeat(1, self.proposals + 1, 1, 1, 1),
            stage=zeros, low=zero, asked=zeros, tried=zeros, orthogonal=zero + FIRST_STEP,
            towards=zero + FIRST_STEP, counts=counts, rng=rng,
        )  # fmt: skip
        return self._start(state)

    def ask(self, state: BoundaryState) -> Query:
        valid = torch.ones(state.points.shape[:2], dtype=torch.bool, device=state.x.device)
        valid[:, -1] = (state.stage < self.walking) | self._tests_orthogonal(state)
        return Query.labels(state.points, valid)

    def tell(self, state: BoundaryState, answer: Answer) -> BoundaryState:
        walking = state.stage == self.walking
        tests = self._tests_orthogonal(state)  # before the counters move on
        candidate = answer.success.clone()  # (B, P + 1)
        candidate[:, -1] &= ~walking  # an orthogonal move is a test, not a place to go
        length = (state.points - state.x.unsqueeze(1)).flatten(2).norm(dim=2)
        nearest = length.masked_fill(~candidate, float("inf")).argmin(1)
        row = torch.arange(len(nearest), device=nearest.device)
        moved = candidate[row, nearest] & (~walking | (length[row, nearest] < (state.current - state.x).flatten(1).norm(dim=1)))
        # Shares of the way grow with their number, so the one before the nearest success failed.
        share = self._shares(state)  # (B, P + 2), from low to just below 1
        low = torch.where(moved, share[row, nearest] / share[row, nearest + 1], share[:, -1]) * (state.stage > 0)
        state = state.replace(
            current=torch.where(moved.reshape(-1, 1, 1, 1), state.points[row, nearest], state.current), low=low,
            stage=torch.where((state.stage > 0) | moved, state.stage + 1, 0).clamp(max=self.walking), asked=state.asked + 1,
            tried=state.tried + walking * self.proposals,
        )  # fmt: skip
        state = self._adapt(state, answer.success, walking, tests)
        done = (
            (state.tried >= self.steps) | (state.towards < CONVERGED) | ((state.stage == 0) & (state.asked >= self.start_draws))
        )
        return self._start(self._propose(state).replace(finished=state.finished | done))

    def _tests_orthogonal(self, state: BoundaryState) -> Tensor:
        """Rows in which the orthogonal move is due: once in ten proposals, as in the authors' code."""
        return (state.stage == self.walking) & (state.tried % 10 < self.proposals)

    def _adapt(self, state: BoundaryState, success: Tensor, walking: Tensor, tests: Tensor) -> BoundaryState:
        """Lengthen steps that succeed often, shorten those that rarely do (section 2.4)."""
        wins = walking * success[:, :-1].sum(1)
        counts = state.counts + torch.stack([tests * 1, tests & success[:, -1], walking * self.proposals, wins], 1)
        # A rate is nan where nothing was tried, and no comparison holds.
        orthogonal, ready = counts[:, 1] / counts[:, 0], counts[:, 0] >= SPHERE_WINDOW
        both = FACTOR ** ((ready & (orthogonal > 0.35)).float() - (ready & (orthogonal < 0.15)).float())
        joint, full = counts[:, 3] / counts[:, 2], counts[:, 2] >= JOINT_WINDOW
        source = FACTOR ** ((full & (joint > 0.15)).float() - (full & (joint < 0.05)).float())
        counts = counts * ~torch.stack([ready, ready, full, full], 1)
        return state.replace(orthogonal=state.orthogonal * both, towards=state.towards * both * source, counts=counts)

    def _propose(self, state: BoundaryState) -> BoundaryState:
        """The next proposals of every row: along the sphere around the image, then towards it (figure 2)."""
        x, away = state.x.unsqueeze(1), (state.current - state.x).unsqueeze(1)  # (B, 1, C, H, W)
        distance = away.flatten(1).norm(dim=1)
        noise = state.rng.normal(state.asked, ((self.proposals + 1) // 2, *x.shape[2:]))
        noise = torch.cat([noise, -noise], 1)[:, : self.proposals]  # (B, P, C, H, W)
        along = (noise * away).flatten(2).sum(2) / distance.square().clamp_min(1e-12).unsqueeze(1)  # (B, P)
        noise -= along[..., None, None, None] * away
        length = noise.flatten(2).norm(dim=2)[..., None, None, None].clamp_min(1e-12)
        noise *= per_row(state.orthogonal * distance, noise) / length
        sphere = (noise.add_(away).div_(per_row((1 + state.orthogonal.square()).sqrt(), noise)).add_(x)).clamp_(0, 1)
        radius = (sphere - x).flatten(2).norm(dim=2).clamp_min(1e-12)
        # Clipping moved the point off the sphere: the step ends at (1 - epsilon) of the distance all the same.
        keep = (((1 - state.towards) * distance).unsqueeze(1) / radius).clamp(0, 1)
        whole = torch.lerp(x.expand_as(sphere), sphere, keep[..., None, None, None])
        return state.replace(points=torch.cat([whole, sphere[:, -1:]], 1))

    def _shares(self, state: BoundaryState) -> Tensor:
        """Equal parts of the way from the last failure to ``current``, (B, P + 2), the failure first."""
        part = torch.arange(self.proposals + 2, device=state.x.device) / (self.proposals + 2)
        return state.low.unsqueeze(1) + (1 - state.low.unsqueeze(1)) * part

    def _start(self, state: BoundaryState) -> BoundaryState:
        """Exchange the points of rows that do not walk yet: fresh noise of several grains, or blends of what succeeded."""
        rows = (state.stage < self.walking).nonzero().squeeze(1)
        if not len(rows):
            return state
        part = state.select(rows)
        noise = part.rng.uniform(-1 - part.asked, (self.proposals + 1, *part.x.shape[1:]))  # (M, P + 1, C, H, W)
        for number in range(noise.shape[1]):  # grains of 1, 1, 2, 2, 4, 4, ... pixels
            down, across = (torch.arange(n, device=noise.device) >> number // 2 for n in part.x.shape[2:])
            noise[:, number] = noise[:, number][..., down.unsqueeze(1), across]
        share = self._shares(part)[:, 1:, None, None, None]
        blends = part.x.unsqueeze(1) + share * (part.current - part.x).unsqueeze(1)
        points = torch.where((part.stage == 0).reshape(-1, 1, 1, 1, 1), noise, blends)
        return state.replace(points=state.points.index_copy(0, rows, points))
