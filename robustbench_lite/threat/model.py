"""The threat model: how far the adversary may move an image, and to what end."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.files.numerals import parse_number
from robustbench_lite.threat.goals import Goal, Untargeted, goal_from
from robustbench_lite.threat.norms import Linf, Norm, RandomSource, norm_by_name

MAX_EPS = 1e9
"""Values of the largest image that is read, each changed by 1, are an L1 distance of 1e8."""
LOW = 0.0
HIGH = 1.0
"""The bounds of an image; normalisation lives inside the model."""


@dataclass(frozen=True)
class ThreatModel:
    """How far an image may be moved, and to what end.

    ``norm`` and ``eps`` span the ball, and the image bounds [0, 1] cut it.
    """

    norm: Norm = field(default_factory=Linf)
    eps: float | None = None
    """In input units, for L0 a number of pixels.

    None asks for the smallest perturbation, whatever its size.
    """
    goal: Goal = field(default_factory=Untargeted)
    """What counts as success."""
    written: str | None = field(default=None, compare=False)
    """How ``eps`` was written, such as ``8/255``: what a record and its readers say."""

    @classmethod
    def parse(
        cls, norm: str | Norm, eps: str | float | None, targeted: object = None
    ) -> ThreatModel:
        """Build one from what a user writes: ``parse("linf", "8/255", "least_likely")``.

        Raises:
            UsageError: there is no such norm, radius or goal.
        """
        chosen = norm_by_name(norm)
        written = None if eps is None else str(eps)
        if eps is None or (isinstance(eps, str) and eps.lower() == "none"):
            return cls(chosen, None, goal_from(targeted), written)
        number = parse_number(eps)
        if number < 0:
            raise UsageError(f"eps is {eps}; a radius cannot be negative.")
        if number > MAX_EPS:
            raise UsageError(
                f"eps is {eps}; no two images are further apart than {MAX_EPS:g}. For any "
                "distance: eps none."
            )
        if chosen.name == "linf" and number > HIGH - LOW:
            meant = f": did you mean {number:g}/255?" if number == int(number) <= 255 else "."
            raise UsageError(
                f"eps is {eps}; images lie in [0, 1], and linf moves each value by at most 1{meant}"
            )
        if chosen.name == "l0" and number != int(number):
            raise UsageError(f"eps is {eps}; for L0 it is a number of pixels, such as 1, 3 or 5.")
        return cls(chosen, number, goal_from(targeted), written)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Move ``x_adv`` into the ball around ``x`` and into the image bounds, (B, C, H, W)."""
        if self.eps is None:
            return x_adv.clamp(LOW, HIGH)
        # x lies within the bounds, so clipping shortens every coordinate of delta: the point stays
        # inside.
        return (x + self.norm.project(x_adv - x, self.eps)).clamp_(LOW, HIGH)

    def random_start(self, x: Tensor, rng: RandomSource, draw: int | Tensor = 0) -> Tensor:
        """Draw a random point of the ball around each row, clipped to the image bounds."""
        return (x + self.norm.random(x, self.radius, rng, draw)).clamp_(LOW, HIGH)

    def ascent(self, x_adv: Tensor, grad: Tensor) -> Tensor:
        """Find the direction of size 1 that raises the loss the most, within the image bounds.

        Args:
            x_adv: where the rows are, (B, C, H, W).
            grad: the gradient of the loss there.
        """
        if not self.norm.sparse:
            return self.norm.steepest(grad, None)
        blocked = ((x_adv <= LOW) & (grad < 0)) | ((x_adv >= HIGH) & (grad > 0))
        return self.norm.steepest(grad, blocked)

    def excess(self, x_adv: Tensor, x: Tensor, size: Tensor | None = None) -> Tensor:
        """Measure by how much each row leaves the ball or the bounds, beyond float tolerance.

        Args:
            x_adv: perturbed images, (B, C, H, W).
            x: clean images.
            size: the norm of ``x_adv - x``, (B,), where the caller knows it already.

        Returns:
            (B,); <= 0 is inside, NaN is outside.
        """
        flat = x_adv.flatten(1)
        out_of_bounds = torch.maximum(LOW - flat.amin(1), flat.amax(1) - HIGH)
        if self.eps is None:
            return out_of_bounds
        size = self.norm.size(x_adv - x) if size is None else size
        return torch.maximum(size - (self.eps + self.norm.tolerance(self.eps)), out_of_bounds)

    @property
    def radius(self) -> float:
        """``eps``, for attacks that cannot do without."""
        if self.eps is None:
            raise UsageError(
                "This attack works inside a ball and needs eps, for example eps=0.1 (--eps 0.1)."
            )
        return self.eps
