"""Adversarial patch. Brown et al. 2017, "Adversarial patch", arXiv:1712.09665."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rbl_attacks.patch_fit import Texture, belongs, fitted
from rbl_attacks.patch_placement import Geometry, shown
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access, Answer, Fit, Query, State, UniversalAttack
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.losses import cross_entropy
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import Targeted, ThreatModel

TEXTURE = -1
"""Draw of the first colours of a patch of an image's own; 0 is its placement."""


@dataclass(frozen=True)
class PatchState(State):
    x: Tensor
    points: Tensor  # (B, C, H, W), asked next
    step: Tensor  # (B,) queries so far
    geometry: Geometry
    rng: SampleRng


@dataclass(frozen=True)
class OwnPatchState(PatchState):
    texture: Texture
    affine: Tensor  # (B, 2, 3), where the patch lies
    covered: Tensor  # (B, 1, H, W) bool


@dataclass(frozen=True, kw_only=True)
class Patch(UniversalAttack):
    """Cover a small part of the image with a patch: one for all images, wherever in them it lands.

    It is fitted on training images, at random places and rotations, and scored on others, each at ``draws`` fresh placements.
    The first success ends a row, so ``draws=1`` measures the mean success over placements and a larger number the success at
    any of so many. The patch covers exactly the pixels of its area. Cost: ``steps`` x ``fit_batch`` gradients for the fit, and
    ``draws`` forwards a sample at most; with ``universal=false`` ``draws`` x ``steps`` gradients and ``draws`` forwards.

    Args:
        draws: placements that each image is tried with.
        universal: one patch for all images; ``false`` fits one to each image at each of its placements.
        area: share of the image that the patch covers; ``None`` is eps, the number of pixels that the threat model allows.
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
    kind: ClassVar[Literal["fixed_eps", "minimal_distance"]] = "fixed_eps"
    paper: ClassVar[str] = "Brown et al. 2017, arXiv:1712.09665"

    draws: int = 10
    universal: bool = True
    area: float | None = None
    shape: Literal["circle", "square"] = "circle"
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
            raise UsageError(f"patch needs 0 < scale_min <= scale_max <= 1, not {self.scale_min} and {self.scale_max}.")
        if not 0 <= self.rotation <= 180:
            raise UsageError(f"patch needs a rotation from 0 to 180 degrees, not {self.rotation}.")
        if not self.learning_rate > 0 or (self.area is not None and not 0 < self.area <= 1):
            raise UsageError("patch needs a learning_rate above 0, and an area above 0 and at most 1.")

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
                f"patch makes one patch for all images, and {threat.goal.spec()} gives each image a class of its own: "
                "use --targeted class:K, or universal=false."
            )

    def progress(self, state: PatchState) -> Tensor:
        return (state.step / (self.draws if self.universal else self.steps + 1)).clamp(max=1)

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> PatchState:
        geometry, step = self._geometry(x, threat), torch.zeros_like(y)
        state = PatchState(finished=step.bool(), x=x, points=x, step=step, geometry=geometry, rng=rng)
        if self.universal:
            return self._placed(state)
        texture = Texture.fresh(rng.uniform(TEXTURE, (x.shape[1], geometry.side, geometry.side)))
        placement = geometry.draw(rng, 0)
        colours, covered = geometry.place(texture.colours, placement)
        first = vars(state) | {"points": torch.where(covered, colours, x)}
        return OwnPatchState(**first, texture=texture, affine=placement.affine, covered=covered)

    def ask(self, state: PatchState) -> Query:
        if self.universal:
            return Query.labels(state.points)
        return Query.gradient(state.points, cross_entropy, rows=state.step < self.steps)

    def tell(self, state: Any, answer: Answer) -> Any:
        last = state.step + 1 >= self.draws if self.universal else state.step >= self.steps
        moved = self._placed(state) if self.universal else self._climbed(state, answer.need_gradient())
        return moved.replace(finished=state.finished | last)

    def fit(self, passes: Passes, images: Points, threat: ThreatModel, seed: int, start: Fit | None = None) -> Iterator[Fit]:
        geometry = self._geometry(images.x, threat)
        rng = SampleRng.create(seed, f"fit/{self.name}", images.sample)
        if start is None:
            grey = images.x.new_full((1, images.x.shape[1], geometry.side, geometry.side), 0.5)
            start = Texture.fresh(grey).at(0, self.steps)
        return fitted(start, geometry, passes, images, rng, self.fit_batch, self.learning_rate)

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        return belongs(fit, (1, shape[0], *2 * (self._geometry(torch.empty(1, *shape), threat).side,)))

    def picture(self, perturbation: Tensor) -> Tensor:
        return shown(perturbation[0], self.shape)

    def _geometry(self, x: Tensor, threat: ThreatModel) -> Geometry:
        height, width = x.shape[2:]
        allowed = int(threat.radius)
        pixels = allowed if self.area is None else int(self.area * height * width + 1e-6)
        if not 1 <= pixels <= allowed:
            raise UsageError(
                f"patch with area={self.area} covers {pixels} of {height} x {width} pixels, and eps allows 1 to {allowed}: "
                f"give --eps {max(pixels, 1)}, or another area."
            )
        geometry = Geometry(self.shape, pixels, height, width, self.rotation, self.scale_min, self.scale_max)
        geometry.check()
        return geometry

    def _placed(self, state: PatchState) -> PatchState:
        """Each row with the fitted patch at its next placement."""
        if self.fitted is None:
            raise UsageError("patch is not fitted yet: evaluate() fits it to training images; elsewhere use universal=false.")
        texture = self.fitted.to(state.x.device).expand(len(state.x), -1, -1, -1)
        colours, covered = state.geometry.place(texture, state.geometry.draw(state.rng, state.step))
        return state.replace(points=torch.where(covered, colours, state.x), step=state.step + 1)

    def _climbed(self, state: OwnPatchState, gradient: Tensor) -> OwnPatchState:
        """Each row after one step of Adam on its own patch."""
        with torch.enable_grad():
            leaf = state.texture.colours.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(state.geometry.seen(leaf, state.affine), leaf, gradient * state.covered)
        texture = state.texture.climbed(gradient, state.step, self.steps, self.learning_rate)
        points = torch.where(state.covered, state.geometry.seen(texture.colours, state.affine), state.x)
        return state.replace(texture=texture, points=points, step=state.step + 1)
