"""What attacks follow the gradient of, instead of a squeezer that has none to follow.

docs/explanation/adaptive.md has the comparison behind the choice.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from rbl_defenses.feature_squeezing.non_local_means import NonLocalMeans
from rbl_defenses.feature_squeezing.squeezers import BitDepth


class SoftBitDepth(nn.Module):
    """``BitDepth`` forward; backward a staircase of ramps instead of the vertical risers.

    Each ramp is the middle of a tanh. With the gradient of the identity every value would count
    alike. Here those near a riser count most, which is where a small step changes the rounded
    value: a projected gradient step in L2 spends its length there (in Linf both do the same).
    """

    STEEPNESS = 5.0
    """Between the best for 1 bit and for 3, on two data sets (docs/explanation/adaptive.md)."""

    def __init__(self, hard: BitDepth) -> None:
        super().__init__()
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        values = x * self.hard.levels
        step = values.detach().clamp(0, self.hard.levels - 0.5).floor()
        ramp = (self.STEEPNESS * (values - step - 0.5)).tanh() / (
            2 * math.tanh(self.STEEPNESS / 2) * self.hard.levels
        )
        shown: Tensor = ramp + (self.hard(x.detach()) - ramp).detach()
        return shown


class StraightThrough(nn.Module):
    """A squeezer whose gradient is that of the identity.

    BPDA: Athalye et al. 2018, arXiv:1802.00420, section 4.1.
    """

    def __init__(self, squeezer: nn.Module) -> None:
        super().__init__()
        self.squeezer = squeezer

    def forward(self, x: Tensor) -> Tensor:
        shown: Tensor = x + (self.squeezer(x.detach()) - x).detach()
        return shown


def stand_in_for(squeezer: nn.Module) -> nn.Module:
    """Choose what an attack takes the gradient of instead of ``squeezer``."""
    match squeezer:
        case BitDepth():
            return SoftBitDepth(squeezer)
        case NonLocalMeans():
            return StraightThrough(squeezer)
        case _:
            return squeezer
