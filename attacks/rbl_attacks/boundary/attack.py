"""Boundary attack. Brendel et al. 2018, "Decision-based adversarial attacks", arXiv:1712.04248."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.boundary.moves import propose, walk, waves
from rbl_attacks.boundary.starts import PER_CLASS, collect, exchange, noise, other_images
from rbl_attacks.boundary.state import BoundaryState, go, land, narrow, start
from robustbench_lite.errors import UsageError
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search import Access, Answer, Fit, FittedAttack, Kind, Query, SampleRng
from robustbench_lite.threat import ThreatModel, Untargeted

FIRST_STEP = 0.1
"""First delta and epsilon; the authors begin with 0.01, and it has to grow first."""
CONVERGED = 1e-7
"""The epsilon of a row that has converged."""


@dataclass(frozen=True, kw_only=True)
class Boundary(FittedAttack[BoundaryState]):
    """Walk along the decision boundary towards the image, seeing labels only.

    Deviations, each for a nearer point at the same number of queries: several proposals from one
    point, of which the nearest success is taken (so steps grow at lower rates of success), in
    opposite pairs (half of the random numbers); longer first steps, shorter windows; smooth noise
    in turn with white noise (networks react more to low frequencies: Brunner et al. 2019,
    arXiv:1812.09803); blended noise of several grains to start from (uniform noise is one class to
    many networks), narrowed down to the boundary.

    Args:
        steps: proposals that a row tries, ``proposals`` from one point; with the tested orthogonal
            moves 1.1 queries a step.
        proposals: points tried from one place.
        grains: kinds of noise that proposals take in turn: white, then smooth over 2, 4, ...
            pixels. The paper's is 1.
        bisections: queries that narrow the first success down to the boundary, each by a factor of
            ``proposals`` + 2.
        start: ``noise``, or ``images``: training images of other classes, which the attack is then
            fitted on. A targeted search needs these, and begins at the first one of its class:
            among K classes after about K / 7 queries.
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
        counts = self.steps, self.proposals, self.grains, self.start_draws, self.bisections + 1
        if min(counts) < 1 or self.start not in ("noise", "images"):
            least = "steps, proposals, grains and start_draws of at least 1, no negative bisections"
            raise UsageError(f"boundary needs {least}, and start=noise or start=images.")

    def check(self, threat: ThreatModel) -> None:
        if self.start == "noise" and not isinstance(threat.goal, Untargeted):
            wrong = "boundary reaches a given class from images of it, not from noise: "
            raise UsageError(wrong + "use 'boundary start=images'.")

    @property
    def fits(self) -> bool:
        return self.start == "images"

    def fit(
        self,
        passes: Passes,
        images: Points,
        threat: ThreatModel,
        seed: int,
        start: Fit | None = None,
    ) -> Iterator[Fit]:
        yield Fit(1, 1, collect(passes, images, seed), {})

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        shapes = fit.result.shape[1:] == (PER_CLASS, *shape)
        return shapes and fit.result.dtype == torch.float32 and not fit.tensors

    def points(self, shape: tuple[int, ...]) -> int:
        return self.proposals + 1

    def progress(self, state: BoundaryState) -> Tensor:
        return (state.tried / self.steps).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> BoundaryState:
        count = torch.zeros_like(y)
        zero = torch.zeros(len(x), device=x.device)
        state = BoundaryState(
            finished=count.bool(),
            x=x,
            y=y,
            current=x,
            distance=zero,
            points=x.unsqueeze(1).repeat(1, self.proposals + 1, 1, 1, 1),
            reach=zero.unsqueeze(1).repeat(1, self.proposals + 1),
            started=count.bool(),
            to_narrow=count + self.bisections,
            low=zero,
            asked=count,
            tried=count,
            orthogonal=zero + FIRST_STEP,
            towards=zero + FIRST_STEP,
            counts=torch.zeros(len(x), 4, device=x.device),
            rng=rng,
        )
        return exchange(state, self._starts)

    def ask(self, state: BoundaryState) -> Query:
        valid = torch.ones(state.points.shape[:2], dtype=torch.bool, device=state.x.device)
        valid[:, -1] = ~state.walks | state.tests_orthogonal
        return Query.labels(state.points, valid)

    def tell(self, state: BoundaryState, answer: Answer) -> BoundaryState:
        landing = land(state, answer.success)
        # The last stage first, so that no row goes through two of them.
        state = start(narrow(walk(go(state, landing), answer.success), landing), landing)
        lost = ~state.started & (state.asked >= self.start_draws)
        done = (state.tried >= self.steps) | (state.towards < CONVERGED) | lost
        state = state.replace(finished=state.finished | done)
        return exchange(self._propose(state), self._starts)

    def _propose(self, state: BoundaryState) -> BoundaryState:
        """The next points of a walk, in every row."""
        half = (self.proposals + 1) // 2
        grain = state.asked % self.grains
        ways = waves(state.rng, state.asked, half, grain, state.x.shape[1:])
        return state.replace(**propose(state, ways)._asdict())

    def _starts(self, state: BoundaryState) -> Tensor:
        """Places to start from, (B, P + 1, C, H, W)."""
        count = self.proposals + 1
        if self.start == "noise":
            return noise(state.rng, state.asked, count, state.x.shape[1:])
        return other_images(state.rng, state.asked, count, state.y, self.fitted)
