"""Adversarial patch. Brown et al. 2017, "Adversarial patch", arXiv:1712.09665."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rbl_attacks.patch.fit import Texture, UniversalFit, is_texture
from rbl_attacks.patch.outline import Shape, show
from rbl_attacks.patch.own import OwnPatchState
from rbl_attacks.patch.placement import Geometry, count_pixels
from rbl_attacks.patch.universal import PatchState
from robustbench_lite.errors import UsageError
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search import (
    Access,
    Answer,
    Fit,
    Kind,
    Query,
    SampleRng,
    UniversalAttack,
    cross_entropy,
)
from robustbench_lite.threat import Targeted, ThreatModel

AnyState = PatchState | OwnPatchState


@dataclass(frozen=True, kw_only=True)
class Patch(UniversalAttack[AnyState]):
    """Cover a small part of the image with a patch: one for all images, wherever in them it lands.

    It is fitted on training images, at random places and rotations, and scored on others, each at
    ``draws`` fresh placements. The first success ends a row, so ``draws=1`` measures the mean
    success over placements and a larger number the success at any of so many. The patch covers
    exactly the pixels of its area. Cost: ``steps`` x ``fit_batch`` gradients for the fit, and
    ``draws`` forwards a sample at most; with ``universal=false`` ``draws`` x ``steps`` gradients
    and ``draws`` forwards.

    Args:
        draws: placements that each image is tried with.
        universal: one patch for all images; ``false`` fits one to each image at each of its
            placements.
        area: share of the image that the patch covers; ``None`` is eps, the number of pixels that
            the threat model allows.
        shape: ``circle`` or ``square``.
        rotation: largest rotation to either side, in degrees.
        scale_min: smallest size of a placement, as a share of the full area.
        scale_max: largest size, likewise.
        steps: steps of Adam.
        learning_rate: its first rate, in units of the image; it falls to 0 along half a cosine.
        fit_batch: training images a step.
    """

    name: ClassVar[str] = "patch"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    kind: ClassVar[Kind] = "fixed_eps"
    paper: ClassVar[str] = "Brown et al. 2017, arXiv:1712.09665"

    draws: int = 10
    universal: bool = True
    area: float | None = None
    shape: Shape = "circle"
    rotation: float = 22.5
    scale_min: float = 1.0
    scale_max: float = 1.0
    steps: int = 500
    learning_rate: float = 0.1
    fit_batch: int = 64

    def __post_init__(self) -> None:
        if min(self.draws, self.steps, self.fit_batch) < 1:
            raise UsageError("patch needs draws, steps and fit_batch of at least 1.")
        if self.shape not in ("circle", "square"):
            raise UsageError(f"patch knows the shapes circle and square, not {self.shape!r}.")
        if not 0 < self.scale_min <= self.scale_max <= 1:
            scales = f"{self.scale_min} and {self.scale_max}"
            raise UsageError(f"patch needs 0 < scale_min <= scale_max <= 1, not {scales}.")
        if not 0 <= self.rotation <= 180:
            raise UsageError(f"patch needs a rotation from 0 to 180 degrees, not {self.rotation}.")
        if not self.learning_rate > 0:
            raise UsageError(f"patch needs a learning_rate above 0, not {self.learning_rate}.")
        if self.area is not None and not 0 < self.area <= 1:
            raise UsageError(f"patch needs an area above 0 and at most 1, not {self.area}.")

    @property
    def fits(self) -> bool:
        return self.universal

    @property
    def restarts(self) -> int:
        """A patch of an image's own begins anew at each placement."""
        return 1 if self.universal else self.draws

    def check(self, threat: ThreatModel) -> None:
        if self.universal and isinstance(threat.goal, Targeted) and threat.goal.rule != "class":
            raise UsageError(
                f"patch makes one patch for all images, and {threat.goal.spec()} gives each image "
                "a class of its own: use --targeted class:K, or universal=false."
            )

    def progress(self, state: AnyState) -> Tensor:
        return (state.step / (self.draws if self.universal else self.steps + 1)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> AnyState:
        geometry = self._geometry(x, threat)
        if not self.universal:
            return OwnPatchState.begin(x, geometry, rng)
        return PatchState.begin(x, geometry, rng).place(self.fitted)

    def ask(self, state: AnyState) -> Query:
        if self.universal:
            return Query.labels(state.points)
        return Query.gradient(state.points, cross_entropy, rows=state.step < self.steps)

    def tell(self, state: AnyState, answer: Answer) -> AnyState:
        if isinstance(state, OwnPatchState):
            done = state.finished | (state.step >= self.steps)
            moved = state.climb(answer.need_gradient(), self.steps, self.learning_rate)
            return moved.replace(finished=done)
        done = state.finished | (state.step + 1 >= self.draws)
        return state.place(self.fitted).replace(finished=done)

    def fit(
        self,
        passes: Passes,
        images: Points,
        threat: ThreatModel,
        seed: int,
        start: Fit | None = None,
    ) -> Iterator[Fit]:
        geometry = self._geometry(images.x, threat)
        rng = SampleRng.create(seed, f"fit/{self.name}", images.sample)
        if start is None:
            grey = images.x.new_full((1, images.x.shape[1], geometry.side, geometry.side), 0.5)
            start = Texture.fresh(grey).as_fit(0, self.steps)
        fit = UniversalFit(geometry, passes, images, rng, self.fit_batch, self.learning_rate)
        return fit.steps(start)

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        side = self._geometry(torch.empty(1, *shape), threat).side
        return is_texture(fit, (1, shape[0], side, side))

    def picture(self, perturbation: Tensor) -> Tensor:
        return show(perturbation[0], self.shape)

    def _geometry(self, x: Tensor, threat: ThreatModel) -> Geometry:
        height, width = x.shape[2:]
        pixels = count_pixels(self.area, height, width, allowed=int(threat.radius))
        scales = self.scale_min, self.scale_max
        geometry = Geometry(self.shape, pixels, height, width, self.rotation, *scales)
        geometry.check()
        return geometry
