"""What is proved of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError


@dataclass(frozen=True)
class Certificate:
    """What is proved of N samples, on the CPU."""

    certified: Tensor
    """No perturbation within the threat changes the class, which is the label: (N,) bool."""
    margins: Tensor
    """A lower bound of the margin over all perturbations, (N,) float64; above 0 is proved."""
    stage: tuple[str, ...]
    """The method that the margin came from, one a sample."""
    radius: Tensor | None = None
    """``lipschitz`` only: the L2 radius that is proved, (N,) float64; 0 if the class is wrong."""
    path: Path | None = None
    """The sealed record, where one is kept."""
    cached: bool = False
    """Read from that record, which an earlier call has made."""
    note: str | None = None
    """What became of the record of another network that was kept there."""

    def __len__(self) -> int:
        return len(self.certified)

    @property
    def certified_accuracy(self) -> float:
        """Share of all samples; a certified sample is classified correctly."""
        return float(self.certified.double().mean())


def join(parts: Sequence[Certificate]) -> Certificate:
    """Join the certificates of one batch after the other.

    Raises:
        UsageError: there is none.
    """
    if not parts:
        raise UsageError("There is no sample to certify.")
    radii = [part.radius for part in parts if part.radius is not None]
    return Certificate(
        certified=torch.cat([part.certified for part in parts]),
        margins=torch.cat([part.margins for part in parts]),
        stage=tuple(name for part in parts for name in part.stage),
        radius=torch.cat(radii) if radii else None,
    )
