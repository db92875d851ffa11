"""How a patch is fitted: batches of training images, gradients at them, steps of Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.patch_placement import Geometry
from robustbench_lite.search.attack import Fit
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.losses import margin
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.search.rows import Rows
from robustbench_lite.threat.norms import per_row

FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.999, 1e-8
"""The constants of Adam (Kingma and Ba 2015, arXiv:1412.6980)."""


@dataclass(frozen=True)
class Texture(Rows):
    """The colours of patches, (B, C, side, side), with Adam's two moments of them."""

    colours: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def fresh(cls, colours: Tensor) -> Texture:
        return cls(colours, torch.zeros_like(colours), torch.zeros_like(colours))

    def at(self, step: int, of: int) -> Fit:
        """The texture as the state of a fit."""
        return Fit(step, of, self.colours, {"first": self.first, "second": self.second})

    def climbed(self, gradient: Tensor, step: Tensor, steps: int, learning_rate: float) -> Texture:
        """After one step of Adam, of ``steps``; ``step`` (), or (B,), counts from 0. The rate falls along half a cosine."""
        first = self.first.lerp(gradient, 1 - FIRST_DECAY)
        second = self.second.lerp(gradient.square(), 1 - SECOND_DECAY)
        done = per_row(step, first) + 1
        spread = (second / (1 - SECOND_DECAY**done)).sqrt() + TINY
        rate = learning_rate * (1 + (math.pi * (done - 1) / steps).cos()) / 2
        return Texture((self.colours + rate * (first / (1 - FIRST_DECAY**done)) / spread).clamp(0, 1), first, second)


def belongs(fit: Fit, shape: tuple[int, ...]) -> bool:
    """Whether ``fit`` is one of textures of this shape, with their moments where it has steps to go."""
    tensors = {"result": fit.result, **fit.tensors}
    wanted = {"result"} if fit.step == fit.of else {"result", "first", "second"}
    return set(tensors) == wanted and all(t.shape == shape and t.dtype == torch.float32 for t in tensors.values())


def fitted(
    start: Fit, geometry: Geometry, passes: Passes, images: Points, rng: SampleRng, batch: int, learning_rate: float
) -> Iterator[Fit]:
    """Go on from ``start`` with a patch for all ``images``, each at a fresh placement whenever its turn comes."""
    texture = Texture(start.result, **start.tensors)
    for step, rows in batches(rng, batch, start.step, start.of):
        part, placement = images.take(rows), geometry.draw(rng.select(rows), step)
        with torch.enable_grad():
            leaf = texture.colours.detach().requires_grad_()
            colours, covered = geometry.place(leaf.expand(len(rows), -1, -1, -1), placement)
            x = torch.where(covered, colours.detach(), part.x)
            asked = part._replace(x=x, draw=torch.full_like(part.y, step * passes.forwards_per_point))
            # Summed over the whole batch at once: model batches of another size change nothing.
            (gradient,) = torch.autograd.grad(colours, leaf, gradients(passes, asked) * covered)
        texture = texture.climbed(gradient, torch.tensor(step), start.of, learning_rate)
        yield texture.at(step + 1, start.of)


def batches(rng: SampleRng, size: int, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
    """Steps ``start`` to ``stop`` with the rows of each, (size,): every epoch in an order of its own, full batches only."""
    size = min(size, len(rng.index))
    per_epoch, epoch, order = len(rng.index) // size, -1, rng.index
    for step in range(start, stop):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = rng.uniform(-1 - epoch, (1,)).squeeze(1).argsort(stable=True)  # placements have draws from 0
        at = step % per_epoch * size
        yield step, order[at : at + size]


def log_chance(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """log p of the goal against its strongest rival alone, (N,): of the target, or of the best wrong class against y.

    Targeted it is nearly the log p of the paper. Untargeted, the log p of y would go on falling, and decide where the patch
    goes, for images that are lost already; this levels off there, and stays linear where p saturates.
    """
    return F.logsigmoid(-margin(logits, y, target))


def gradients(passes: Passes, points: Points) -> Tensor:
    """The gradient of ``log_chance`` at every point, (N, C, H, W), however many they are."""
    parts = (points.take(slice(i, i + passes.batch_size)) for i in range(0, len(points.x), passes.batch_size))
    return torch.cat([passes.gradient(part, log_chance)[1] for part in parts])
