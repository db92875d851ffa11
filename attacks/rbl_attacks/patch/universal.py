"""The search with one patch for all images: a fresh placement at each query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rbl_attacks.patch.placement import Geometry
from robustbench_lite.errors import UsageError
from robustbench_lite.search import SampleRng, State


@dataclass(frozen=True)
class PatchState(State):
    x: Tensor
    points: Tensor  # (B, C, H, W), asked next
    step: Tensor  # (B,) placements so far
    geometry: Geometry
    rng: SampleRng

    @classmethod
    def begin(cls, x: Tensor, geometry: Geometry, rng: SampleRng) -> PatchState:
        """The images ``x`` (B, C, H, W), without a patch yet."""
        step = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(finished=step.bool(), x=x, points=x, step=step, geometry=geometry, rng=rng)

    def place(self, fitted: Tensor | None) -> PatchState:
        """Put the ``fitted`` patch (1, C, side, side) at the next placement of each row.

        Raises:
            UsageError: there is none.
        """
        if fitted is None:
            unfitted = "patch is not fitted yet: evaluate() fits it to training images; "
            raise UsageError(unfitted + "elsewhere use universal=false.")
        texture = fitted.to(self.x.device).expand(len(self.x), -1, -1, -1)
        placed = self.geometry.place(texture, self.geometry.draw(self.rng, self.step))
        return self.replace(points=placed.onto(self.x), step=self.step + 1)
