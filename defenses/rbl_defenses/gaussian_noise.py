"""Gaussian noise on the input.

Liu et al. 2018, "Towards robust neural networks via random self-ensemble", arXiv:1712.00673: the
noise layer before the first one, and a vote over draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustbench_lite.defense import DefendedModel, Defense, Traits, Wrapper
from robustbench_lite.errors import UsageError
from robustbench_lite.search import SampleRng

_MOST = 100_000
"""Votes and draws: randomized smoothing, which asks for the most, takes 100,000. A record says how
many there are.
"""


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Defense):
    """Adds fresh Gaussian noise to every image that is shown; the class is what most of ``votes``
    draws say.

    The noise belongs to the sample and the number of the draw, so that no verdict depends on the
    batch.

    Args:
        sigma: standard deviation of the noise, in input units. The noisy image is not clipped.
        votes: draws that a verdict is a majority of; odd, so that there is no tie.
        draws: draws that an adaptive attacker averages logits and gradients over; each counts as a
            query.
    """

    name: ClassVar[str] = "gaussian_noise"
    paper: ClassVar[str] = "Liu et al. 2018, arXiv:1712.00673"

    sigma: float = 0.1
    votes: int = 9
    draws: int = 8

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise UsageError(f"gaussian_noise needs a sigma above 0, not {self.sigma}.")
        if not (1 <= self.votes <= _MOST and self.votes % 2 and 1 <= self.draws <= _MOST):
            raise UsageError(
                "gaussian_noise needs an odd number of votes and at least one draw, up to "
                f"{_MOST:,} each, "
                f"not {self.votes}, {self.draws}."
            )

    def wrap(self, model: nn.Module) -> DefendedModel:
        return DefendedModel(
            NoisyInput(model, self.sigma), Traits(random=True, draws=self.draws, votes=self.votes)
        )


class NoisyInput(Wrapper):
    """A network that sees x + sigma * noise."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__(model)
        self.sigma = sigma
        self.takes_rng = True

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        return self.inner(x + self.sigma * rng.normal(0, tuple(x.shape[1:])), rng)
