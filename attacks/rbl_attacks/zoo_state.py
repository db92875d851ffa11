"""Where each row of ZOO stands."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_lite.search.attack import State
from robustbench_lite.search.rng import SampleRng


@dataclass(frozen=True)
class ZOOState(State):
    x: Tensor
    noise: Tensor  # (B, D)
    order: Tensor  # (B, D) coordinates at random; each move takes the next part
    moments: Tensor  # (B, 3, D): Adam's two moments, and how often each coordinate has moved
    const: Tensor  # (B,) c of equation 4; ``below`` and ``above`` enclose it
    below: Tensor
    above: Tensor
    reached: Tensor  # (B,) bool, this c has led to a success
    probing: Tensor  # (B,) bool, asks about the image as it stands only
    milestone: Tensor  # (B,) the objective a tenth of the steps ago
    search: Tensor  # (B,) values of c that are done
    step: Tensor  # (B,) moves with this c
    moves: Tensor  # (B,) moves in all
    rng: SampleRng
