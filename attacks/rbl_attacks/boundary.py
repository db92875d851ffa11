"""Boundary attack. Brendel et al. 2018, "Decision-based adversarial attacks", arXiv:1712.04248."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.boundary_moves import PER_CLASS, BoundaryState, bank, moves, noise, other_images, shares, waves
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Fit, FittedAttack, Kind, Query
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.goals import Untargeted

FIRST_STEP, FACTOR, CONVERGED = 0.1, 1.5, 1e-7
"""First delta and epsilon (the authors begin with 0.01, and it has to grow first), by how much they change at once, and the
epsilon of a row that has converged."""
SPHERE_WINDOW, JOINT_WINDOW = 20, 30
"""Moves between two changes of a step size. The paper counts 100 orthogonal moves; 20 settle five times sooner."""


@dataclass(frozen=True, kw_only=True)
class Boundary(FittedAttack[BoundaryState]):
    """Walk along the decision boundary towards the image, seeing labels only.

    Deviations, each for a nearer point at the same number of queries: several proposals from one point, of which the nearest
    success is taken (so steps grow at lower rates of success), in opposite pairs (half of the random numbers); longer first
    steps, shorter windows; smooth noise in turn with white noise (networks react more to low frequencies: Brunner et al. 2019,
    arXiv:1812.09803); blended noise of several grains to start from (uniform noise is one class to many networks), narrowed
    down to the boundary.

    Args:
        steps: proposals that a row tries, ``proposals`` from one point; with the tested orthogonal moves 1.1 queries a step.
        proposals: points tried from one place.
        grains: kinds of noise that proposals take in turn: white, then smooth over 2, 4, ... pixels. The paper's is 1.
        bisections: queries that narrow the first success down to the boundary, each by a factor of ``proposals`` + 2.
        start: ``noise``, or ``images``: training images of other classes, which the attack is then fitted on. A targeted search
            needs these, and begins at the first one of its class: among K classes after about K / 7 queries.
        start_draws: queries for a start after which a row counts as not attackable.
    """

    name: ClassVar[str] = "boundary"
    version: ClassVar[int] = 3
    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    kind: ClassVar[Kind] = "minimal_distance"
    batches: ClassVar[int] = 4
    paper: ClassVar[str] = "Brendel et al. 2018, arXiv:1712.04248"

    steps: int = 25_000
    proposals: int = 6
    grains: int = 2
    bisections: int = 3
    start: Literal["noise", "images"] = "noise"
    start_draws: int = 20

    def __post_init__(self) -> None:
        too_few = min(self.steps, self.proposals, self.grains, self.start_draws, self.bisections + 1) < 1
        if too_few or self.start not in ("noise", "images"):
            counts = "steps, proposals, grains and start_draws of at least 1, no negative bisections"
            raise UsageError(f"boundary needs {counts}, and start=noise or start=images.")

    def check(self, threat: ThreatModel) -> None:
        if self.start == "noise" and not isinstance(threat.goal, Untargeted):
            raise UsageError("boundary reaches a given class from images of it, not from noise: use 'boundary start=images'.")

    @property
    def fits(self) -> bool:
        return self.start == "images"

    def fit(self, passes: Passes, images: Points, threat: ThreatModel, seed: int, start: Fit | None = None) -> Iterator[Fit]:
        yield Fit(1, 1, bank(passes, images, seed), {})

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        return fit.result.shape[1:] == (PER_CLASS, *shape) and fit.result.dtype == torch.float32 and not fit.tensors

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
            finished=zeros.bool(), x=x, y=y, current=x, distance=zero, stage=zeros, low=zero, asked=zeros, tried=zeros,
            points=x.unsqueeze(1).repeat(1, self.proposals + 1, 1, 1, 1), reach=zero.unsqueeze(1).repeat(1, self.proposals + 1),
            orthogonal=zero + FIRST_STEP, towards=zero + FIRST_STEP, counts=counts, rng=rng,
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
        reach, nearest = state.reach.masked_fill(~candidate, float("inf")).min(1)
        row = torch.arange(len(nearest), device=nearest.device)
        moved = reach.isfinite() & (~walking | (reach < state.distance))
        # Shares of the way grow with their number, so the one before the nearest success failed.
        share = shares(state.low, self.proposals + 2)  # (B, P + 2), from low to just below 1
        low = torch.where(moved, share[row, nearest] / share[row, nearest + 1], share[:, -1]) * (state.stage > 0)
        state = state.replace(
            current=torch.where(moved.reshape(-1, 1, 1, 1), state.points[row, nearest], state.current),
            distance=torch.where(moved, reach, state.distance), low=low,
            stage=torch.where((state.stage > 0) | moved, state.stage + 1, 0).clamp(max=self.walking), asked=state.asked + 1,
            tried=state.tried + walking * self.proposals,
        )  # fmt: skip
        state = self._adapt(state, answer.success, walking, tests)
        lost = (state.stage == 0) & (state.asked >= self.start_draws)
        done = (state.tried >= self.steps) | (state.towards < CONVERGED) | lost
        return self._start(self._propose(state).replace(finished=state.finished | done))

    def _tests_orthogonal(self, state: BoundaryState) -> Tensor:
        """Rows in which the orthogonal move is due: once in ten proposals, as in the authors' code."""
        return (state.stage == self.walking) & (state.tried % 10 < self.proposals)

    def _adapt(self, state: BoundaryState, success: Tensor, walking: Tensor, tests: Tensor) -> BoundaryState:
        """Lengthen steps that succeed often, shorten those that rarely do (section 2.4)."""
        wins = walking * success[:, :-1].sum(1)
        counts = state.counts + torch.stack([tests * 1, tests & success[:, -1], walking * self.proposals, wins], 1)
        # Whole numbers: a rate of 7 in 20 does come up, and 0.35 is no float.
        tried, held, tried_both, held_both = counts.unbind(1)
        ready, full = tried >= SPHERE_WINDOW, tried_both >= JOINT_WINDOW
        both = FACTOR ** ((ready & (20 * held > 7 * tried)).float() - (ready & (20 * held < 3 * tried)).float())
        source = FACTOR ** ((full & (20 * held_both > 3 * tried_both)).float() - (full & (20 * held_both < tried_both)).float())
        counts = counts * ~torch.stack([ready, ready, full, full], 1)
        return state.replace(orthogonal=state.orthogonal * both, towards=state.towards * both * source, counts=counts)

    def _propose(self, state: BoundaryState) -> BoundaryState:
        """The next proposals of every row: along the sphere around the image, then towards it (figure 2)."""
        noise = waves(state.rng, state.asked, (self.proposals + 1) // 2, state.asked % self.grains, state.x.shape[1:])
        points, reach = moves(state, noise)
        return state.replace(points=points, reach=reach)

    def _start(self, state: BoundaryState) -> BoundaryState:
        """Exchange the points of rows that do not walk yet: places to start from, or blends with what succeeded."""
        rows = (state.stage < self.walking).nonzero().squeeze(1)
        if not len(rows):
            return state
        part, count = state.select(rows), self.proposals + 1
        if self.start == "noise":
            starts = noise(part.rng, -1 - part.asked, count, part.x.shape[1:])  # (M, P + 1, C, H, W)
        else:
            starts = other_images(part.rng, -1 - part.asked, count, part.y, self.fitted)
        blends = torch.lerp(
            part.x.unsqueeze(1), part.current.unsqueeze(1), shares(part.low, count + 1)[:, 1:, None, None, None]
        )
        points = torch.where((part.stage == 0).reshape(-1, 1, 1, 1, 1), starts, blends)
        reach = (points - part.x.unsqueeze(1)).flatten(2).norm(dim=2)
        return state.replace(points=state.points.index_copy(0, rows, points), reach=state.reach.index_copy(0, rows, reach))
