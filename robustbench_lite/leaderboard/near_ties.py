"""Why a sample that is measured again gets another verdict than recorded: a margin or a search that hangs on rounding."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.search.defended import DefendedModel, Wrapper, credited
from robustbench_lite.search.losses import margin, relative
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel

ROUNDINGS, JITTER = 16, 2.0**-20
"""How often a search is repeated with logits that are rounded otherwise, and by what share of themselves at most: about 1e-6,
what kernels of other machines differ by."""


class Rounded(Wrapper):
    """A network whose logits carry another rounding; ``number`` says which. Its gradients carry it as well."""

    def __init__(self, model: DefendedModel, number: int) -> None:
        super().__init__(model.module)
        self.generator = torch.Generator().manual_seed(number)

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        logits = self.inner(x, rng)
        noise = torch.rand(logits.shape, generator=self.generator).to(logits) * 2 - 1
        return logits * (1 + JITTER * noise)


def rounded(model: DefendedModel, number: int) -> DefendedModel:
    """``model`` with another rounding."""
    return _behind(model, Rounded(model, number))


def _behind(model: DefendedModel, wrapper: nn.Module) -> DefendedModel:
    """``model`` with ``wrapper`` around it: no shorter way round the network is taken."""
    return dataclasses.replace(model, module=wrapper.eval(), fast=None)


class Watched(Wrapper):
    """A network that remembers how near to its goal an attack on one sample came: the smallest margin of a point in the ball.

    For a random network one draw says nothing about a vote: nothing is remembered.
    """

    def __init__(self, model: DefendedModel, sample: Dataset, target: Tensor, threat: ThreatModel) -> None:
        super().__init__(model.module)
        self.traits, self.x, self.y, self.target, self.threat = model.traits, sample.x, sample.y, target, threat
        self.nearest = math.inf

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        asked = x.detach().clone()  # the network may write over its input
        logits = self.inner(x, rng)
        if not self.traits.random:
            self._see(asked, logits.detach())
        return logits

    def _see(self, x: Tensor, logits: Tensor) -> None:
        y, target, clean = (part.to(x.device).expand(len(x), *part.shape[1:]) for part in (self.y, self.target, self.x))
        shown = credited(logits, y) if self.traits.abstains else logits
        closeness = relative(margin(shown, y, target), shown).abs()
        inside = self.threat.excess(x, clean) <= 0
        self.nearest = min(self.nearest, float(closeness.masked_fill(~(inside & closeness.isfinite()), math.inf).min()))


def watched(model: DefendedModel, sample: Dataset, target: Tensor, threat: ThreatModel) -> tuple[DefendedModel, Watched]:
    """``model``, and what watches it."""
    watch = Watched(model, sample, target, threat)
    return _behind(model, watch), watch


def excuse(closeness: float) -> str | None:
    """What a new verdict stands on, where that is rounding; ``closeness`` is its margin, in shares of the largest logit."""
    return f"on a margin of {closeness:.1g} of the largest logit, which is rounding" if closeness <= TOLERANCE else None


def excuse_of_search(tried: int | None) -> str | None:
    """The same for a search: that of the number ``tried``, from 1, whose logits were rounded otherwise, ends as recorded."""
    if tried is None:
        return None
    return (
        f"where the way of this search hangs on the last bits of the logits: with those moved by {JITTER:.0e}, attempt {tried} "
        "ends as recorded"
    )
