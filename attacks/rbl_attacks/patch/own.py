"""A patch of an image's own, fitted to it in the search, at one placement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rbl_attacks.patch.fit import Texture
from rbl_attacks.patch.placement import COLOURS, Geometry
from robustbench_lite.search import SampleRng, State


@dataclass(frozen=True)
class OwnPatchState(State):
    x: Tensor
    points: Tensor  # (B, C, H, W), asked next
    step: Tensor  # (B,) steps of Adam so far
    geometry: Geometry
    texture: Texture
    affine: Tensor  # (B, 2, 3), where the patch lies
    covered: Tensor  # (B, 1, H, W) bool

    @classmethod
    def begin(cls, x: Tensor, geometry: Geometry, rng: SampleRng) -> OwnPatchState:
        """A patch of random colours at a random placement in each image of ``x`` (B, C, H, W)."""
        colours = rng.stream(COLOURS).uniform(0, (x.shape[1], geometry.side, geometry.side))
        placement = geometry.draw(rng, 0)
        placed = geometry.place(colours, placement)
        step = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(
            finished=step.bool(),
            x=x,
            points=placed.onto(x),
            step=step,
            geometry=geometry,
            texture=Texture.fresh(colours),
            affine=placement.affine,
            covered=placed.covered,
        )

    def climb(self, gradient: Tensor, steps: int, learning_rate: float) -> OwnPatchState:
        """Take one step of Adam.

        Args:
            gradient: of the loss to climb by the ``points``, (B, C, H, W).
            steps: how many there will be.
            learning_rate: of the first one.
        """
        with torch.enable_grad():
            leaf = self.texture.colours.detach().requires_grad_()
            seen = self.geometry.see(leaf, self.affine)
            (by_texel,) = torch.autograd.grad(seen, leaf, gradient * self.covered)
        texture = self.texture.climb(by_texel, self.step, steps, learning_rate)
        seen = self.geometry.see(texture.colours, self.affine)
        points = torch.where(self.covered, seen, self.x)
        return self.replace(texture=texture, points=points, step=self.step + 1)
