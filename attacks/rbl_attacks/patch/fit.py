"""How a patch is fitted: batches of training images, gradients at them, steps of Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rbl_attacks.patch.placement import ORDERS, Geometry
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search import Fit, Moments, Rows, SampleRng, adam_update, margin
from robustbench_lite.threat.norms import per_row


@dataclass(frozen=True)
class Texture(Rows):
    """The colours of patches, (B, C, side, side), on their way up the loss."""

    colours: Tensor
    moments: Moments

    @classmethod
    def fresh(cls, colours: Tensor) -> Texture:
        """The texture before its first step."""
        return cls(colours, Moments.fresh(colours))

    @classmethod
    def from_fit(cls, fit: Fit) -> Texture:
        """The texture of a fit that has steps to go."""
        return cls(fit.result, Moments(fit.tensors["first"], fit.tensors["second"]))

    def as_fit(self, step: int, of: int) -> Fit:
        """The texture as the state of a fit that has taken ``step`` steps."""
        moments = {"first": self.moments.mean, "second": self.moments.square}
        return Fit(step, of, self.colours, moments)

    def climb(self, gradient: Tensor, step: Tensor, steps: int, learning_rate: float) -> Texture:
        """The texture after one step of Adam, whose rate falls along half a cosine.

        Args:
            gradient: of the loss to climb by the colours, shaped as they are.
            step: steps that were taken before, () or (B,).
            steps: how many there will be.
            learning_rate: the rate of the first step.
        """
        taken = per_row(step, self.colours)
        rate = learning_rate * (1 + (math.pi * taken / steps).cos()) / 2
        move, moments = adam_update(self.moments, gradient, taken + 1, rate)
        return Texture((self.colours + move).clamp(0, 1), moments)


def is_texture(fit: Fit, shape: tuple[int, ...]) -> bool:
    """Whether ``fit`` is one of textures of this shape, with moments where it has steps to go."""
    tensors = {"result": fit.result, **fit.tensors}
    wanted = {"result"} if fit.step == fit.of else {"result", "first", "second"}
    fitting = all(t.shape == shape and t.dtype == torch.float32 for t in tensors.values())
    return set(tensors) == wanted and fitting


@dataclass(frozen=True)
class UniversalFit:
    """The fit of one patch for all ``images``, each at a fresh placement when its turn comes."""

    geometry: Geometry
    passes: Passes
    images: Points
    rng: SampleRng
    batch: int
    learning_rate: float

    def steps(self, start: Fit) -> Iterator[Fit]:
        """Go on from ``start``; yields after every step."""
        texture = Texture.from_fit(start)
        for step, rows in batches(self.rng, self.batch, start.step, start.of):
            gradient = self._gradient(texture.colours, step, rows)
            texture = texture.climb(gradient, torch.tensor(step), start.of, self.learning_rate)
            yield texture.as_fit(step + 1, start.of)

    def _gradient(self, texture: Tensor, step: int, rows: Tensor) -> Tensor:
        """The gradient of the texture, (1, C, side, side), summed over the images ``rows``."""
        part = self.images.take(rows)
        placement = self.geometry.draw(self.rng.select(rows), step)
        with torch.enable_grad():
            leaf = texture.detach().requires_grad_()
            placed = self.geometry.place(leaf.expand(len(rows), -1, -1, -1), placement)
            draw = torch.full_like(part.y, step * self.passes.forwards_per_point)
            asked = part._replace(x=placed.onto(part.x).detach(), draw=draw)
            by_pixel = input_gradients(self.passes, asked) * placed.covered
            # Summed over the whole batch at once: model batches of another size change nothing.
            (gradient,) = torch.autograd.grad(placed.colours, leaf, by_pixel)
        return gradient


class Batch(NamedTuple):
    """What one step of a fit looks at."""

    step: int
    rows: Tensor
    """(size,) int64."""


def batches(rng: SampleRng, size: int, start: int, stop: int) -> Iterator[Batch]:
    """Steps ``start`` to ``stop``: every epoch in an order of its own, full batches only."""
    size = min(size, len(rng.index))
    per_epoch = len(rng.index) // size
    epoch = -1
    order = rng.index
    for step in range(start, stop):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = rng.stream(ORDERS).uniform(epoch, (1,)).squeeze(1).argsort(stable=True)
        first = step % per_epoch * size
        yield Batch(step, order[first : first + size])


def log_chance(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """log p of the goal against its strongest rival alone, (N,).

    The goal is the target, or the best wrong class against y. Targeted it is nearly the log p of
    the paper. Untargeted, the log p of y would go on falling, and decide where the patch goes, for
    images that are lost already; this levels off there, and stays linear where p saturates.
    """
    return F.logsigmoid(-margin(logits, y, target))


def input_gradients(passes: Passes, points: Points) -> Tensor:
    """The gradient of ``log_chance`` at every point, (N, C, H, W), however many they are."""
    size = passes.batch_size
    parts = (points.take(slice(first, first + size)) for first in range(0, len(points.x), size))
    return torch.cat([passes.gradient(part, log_chance)[1] for part in parts])
