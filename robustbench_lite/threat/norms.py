"""The geometry of perturbations in each norm: size, projection, direction, random points.

This is the only place where norms differ. ``delta`` is (B, C, H, W) in input units; ``eps`` is a
number or one per row (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from robustbench_lite.errors import UnknownNameError

_TINY = 1e-12


class RandomSource(Protocol):
    """Per-row random numbers; ``robustbench_lite.rows.rng.SampleRng`` is the implementation."""

    def uniform(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw uniform numbers on [0, 1), (B, *shape)."""
        ...

    def normal(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normal numbers, (B, *shape)."""
        ...

    def mirrored(self) -> RandomSource:
        """Give draws that have nothing to do with those of the same number here."""
        ...


def per_row(value: float | Tensor, like: Tensor) -> Tensor:
    """Shape a number, or one number a row (B,), to broadcast over ``like`` (B, ...)."""
    if not isinstance(value, Tensor):
        # Written there: a copy would wait for the device.
        return torch.full((), value, dtype=like.dtype, device=like.device)
    tensor = value.to(like)
    return tensor.reshape(-1, *([1] * (like.dim() - 1))) if tensor.dim() else tensor


def largest(values: Tensor, count: int) -> Tensor:
    """Find where the ``count`` largest of ``values`` (B, N) are, (B, count).

    Of equal ones it is the first, on any torch and device.
    """
    return values.argsort(dim=1, descending=True, stable=True)[:, :count]


class Norm(ABC):
    """One way to measure a perturbation. Norms carry no state: two objects of a class are equal."""

    name: ClassVar[str]
    label: ClassVar[str]
    #: Steps move few coordinates: those that a bound of the image holds must be passed over.
    sparse: ClassVar[bool] = False

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Measure each row, (B,)."""

    @abstractmethod
    def dual_size(self, gradient: Tensor) -> Tensor:
        """Measure each row of ``gradient`` in the dual norm, (B,).

        It is the most by which a step of size 1 can raise a linear function of this gradient. L0
        has no dual norm: its pixels move as far as those of Linf, and it takes that of Linf.
        """

    @abstractmethod
    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Move each row to the nearest point (in L2) of the ball of radius ``eps`` around 0."""

    @abstractmethod
    def steepest(self, grad: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Find the direction of size 1 that raises a loss the most; 0 where its gradient is 0.

        Args:
            grad: the gradient of the loss, (B, C, H, W).
            blocked: coordinates that a bound of the image already holds, which norms with sparse
                steps pass over.
        """

    @abstractmethod
    def random(
        self, like: Tensor, eps: float | Tensor, rng: RandomSource, draw: int | Tensor
    ) -> Tensor:
        """Draw a point of the ball of radius ``eps`` for each row of ``like``."""

    def tolerance(self, eps: float) -> float:
        """Say how far beyond ``eps`` rounding alone may carry a point that was projected."""
        return 1e-6 + 1e-6 * eps

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Linf(Norm):
    """Largest absolute change of any value."""

    name = "linf"
    label = "Linf"

    def size(self, delta: Tensor) -> Tensor:
        flat = delta.flatten(1)
        # Without a copy of all the absolute values.
        return torch.maximum(flat.amax(1), -flat.amin(1)).abs()

    def dual_size(self, gradient: Tensor) -> Tensor:
        return gradient.abs().flatten(1).sum(1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        if isinstance(eps, Tensor):
            radius = per_row(eps, delta)
            return torch.maximum(torch.minimum(delta, radius), -radius)
        return delta.clamp(-eps, eps)

    def steepest(self, grad: Tensor, blocked: Tensor | None = None) -> Tensor:
        return grad.sign()

    def random(
        self, like: Tensor, eps: float | Tensor, rng: RandomSource, draw: int | Tensor
    ) -> Tensor:
        """Draw uniformly in the ball."""
        return (rng.uniform(draw, tuple(like.shape[1:])) * 2 - 1) * per_row(eps, like)


class L2(Norm):
    """Euclidean length of the change."""

    name = "l2"
    label = "L2"

    def size(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def dual_size(self, gradient: Tensor) -> Tensor:
        return self.size(gradient)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        length = per_row(self.size(delta).clamp_min(_TINY), delta)
        return delta * (per_row(eps, delta) / length).clamp(max=1.0)

    def steepest(self, grad: Tensor, blocked: Tensor | None = None) -> Tensor:
        # To divide by the largest entry first keeps gradients of 1e-30 from vanishing in squares.
        largest_entry = grad.abs().flatten(1).amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
        scaled = grad / per_row(largest_entry, grad)
        return scaled / per_row(self.size(scaled).clamp_min(_TINY), grad)

    def random(
        self, like: Tensor, eps: float | Tensor, rng: RandomSource, draw: int | Tensor
    ) -> Tensor:
        """Draw uniformly in the ball: a normal direction, and a radius of eps u^(1/D)."""
        direction = self.steepest(rng.normal(draw, tuple(like.shape[1:])))
        radius = rng.mirrored().uniform(draw, (1,)).squeeze(1) ** (1.0 / direction[0].numel())
        return direction * per_row(radius, like) * per_row(eps, like)


class L1(Norm):
    """Sum of absolute changes."""

    name = "l1"
    label = "L1"
    sparse = True
    #: Share of the coordinates that one step moves (SLIDE, Tramer and Boneh 2019, arXiv:1904.13000,
    #: section 4.1: 1 %).
    step_share: ClassVar[float] = 0.01

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).sum(1)

    def dual_size(self, gradient: Tensor) -> Tensor:
        return gradient.abs().flatten(1).amax(1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Soft-threshold at the level that leaves exactly ``eps`` (Duchi et al. 2008)."""
        flat = delta.flatten(1)
        magnitude = flat.abs()
        radius = per_row(eps, flat)
        ordered = magnitude.sort(dim=1, descending=True).values
        surplus = ordered.cumsum(1) - radius
        rank = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
        kept = (ordered * rank > surplus).sum(1, keepdim=True).clamp_min(1)
        level = (surplus.gather(1, kept - 1) / kept).clamp_min(0)
        # A row already inside has a negative surplus everywhere: at level 0 it stays where it is.
        return (flat.sign() * (magnitude - level).clamp_min(0)).reshape(delta.shape)

    def steepest(self, grad: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Step alike along the largest 1 % of the gradient.

        The exact maximiser, one coordinate, zigzags.
        """
        flat = (grad if blocked is None else grad.masked_fill(blocked, 0)).flatten(1)
        count = max(1, round(flat.shape[1] * self.step_share))
        top = largest(flat.abs(), count)
        step = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return (step / step.abs().sum(1, keepdim=True).clamp_min(1)).reshape(grad.shape)

    def random(
        self, like: Tensor, eps: float | Tensor, rng: RandomSource, draw: int | Tensor
    ) -> Tensor:
        """Draw uniformly in the ball.

        The direction is normalised exponentials with random signs, the radius eps u^(1/D).
        """
        shape = tuple(like.shape[1:])
        signed = rng.uniform(draw, shape) * 2 - 1
        weight = -torch.log1p(-signed.abs().clamp(max=1 - 1e-7))
        direction = signed.sign() * weight / per_row(self.size(weight).clamp_min(_TINY), like)
        radius = rng.mirrored().uniform(draw, (1,)).squeeze(1) ** (1.0 / direction[0].numel())
        return direction * per_row(radius, like) * per_row(eps, like)

    def tolerance(self, eps: float) -> float:
        return 1e-5 + 1e-5 * eps  # a sum over all coordinates gathers their rounding


class L0(Norm):
    """Number of changed pixels; a pixel is one position, whatever its channels do."""

    name = "l0"
    label = "L0"
    sparse = True

    def size(self, delta: Tensor) -> Tensor:
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def dual_size(self, gradient: Tensor) -> Tensor:
        return gradient.abs().flatten(1).sum(1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Keep the ``eps`` pixels that changed the most (L2 over channels).

        Ties go to the first in reading order.
        """
        weight = delta.square().sum(1).flatten(1)  # (B, H*W)
        order = weight.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter(1, order, ranks)
        budget = eps.to(delta.device).reshape(-1, 1) if isinstance(eps, Tensor) else eps
        keep = (rank < budget).reshape(delta.shape[0], 1, *delta.shape[2:])
        return delta * keep

    def steepest(self, grad: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Take the sign of the gradient on the one pixel where its L1 over channels is largest."""
        flat = (grad if blocked is None else grad.masked_fill(blocked, 0)).abs().sum(1).flatten(1)
        best = torch.zeros_like(flat).scatter(1, flat.argmax(1, keepdim=True), 1.0)
        return grad.sign() * best.reshape(grad.shape[0], 1, *grad.shape[2:])

    def random(
        self, like: Tensor, eps: float | Tensor, rng: RandomSource, draw: int | Tensor
    ) -> Tensor:
        """Draw uniform values in [-1, 1] on ``eps`` pixels chosen at random."""
        values = rng.uniform(draw, tuple(like.shape[1:])) * 2 - 1
        choice = rng.mirrored().uniform(draw, (1, *like.shape[2:]))
        order = choice.flatten(1).argsort(dim=1, stable=True).argsort(dim=1).reshape(choice.shape)
        return values * (order < per_row(eps, like))

    def tolerance(self, eps: float) -> float:
        return 0.0


NORMS: dict[str, Norm] = {norm.name: norm for norm in (L0(), L1(), L2(), Linf())}


def norm_by_name(name: str | Norm) -> Norm:
    """Find a norm: ``"linf"``, ``"Linf"``, or a Norm object, which is given back."""
    if isinstance(name, Norm):
        return name
    if str(name).lower() not in NORMS:
        raise UnknownNameError("norm", str(name), NORMS)
    return NORMS[str(name).lower()]
