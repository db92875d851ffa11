"""Layers of this project that several rooms must know when they meet one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Pointwise(nn.Module):
    """Base of modules from images to images, (B, C, H, W), that work on each pixel alone.

    What becomes of a pixel does not depend on where it is.
    """


class Normalize(Pointwise):
    """(x - mean) / std, channel by channel.

    Normalisation lives inside the network, so that eps keeps its meaning.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class ConvexAggregation(nn.Module):
    """A weighted sum of branches of one shape, at first their mean.

    With its coefficients on the simplex it is as Lipschitz as its worst branch (Cisse et al. 2017,
    arXiv:1704.08847, section 4.3); ``project`` puts them there.
    """

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.full((branches,), 1.0 / branches))

    def forward(self, *branches: Tensor) -> Tensor:
        return (self.coefficients @ torch.stack(branches).flatten(1)).reshape(branches[0].shape)

    @torch.no_grad()
    def project(self) -> None:
        """Move the coefficients, in place, to the nearest point of the simplex (Michelot 1986)."""
        ordered = self.coefficients.sort(descending=True).values
        excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(ordered) + 1, device=ordered.device)
        kept = int((ordered > excess).sum())  # a prefix: at least the largest coefficient
        self.coefficients.copy_((self.coefficients - excess[kept - 1]).clamp_min(0))
