"""Why a sample that is measured again gets another verdict than recorded.

The reason is a margin, or a search, that hangs on rounding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.model.defended import DefendedModel, Wrapper, credit_abstention
from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.rows.losses import margin, relative
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

ROUNDINGS = 16
"""How often a search is repeated with logits that are rounded otherwise."""
JITTER = 2.0**-20
"""By what share of themselves at most: about 1e-6, what kernels of other machines differ by."""


class Rounded(Wrapper):
    """A network whose logits carry another rounding; ``number`` says which.

    Its gradients carry it as well.
    """

    def __init__(self, model: DefendedModel, number: int) -> None:
        super().__init__(model.module)
        self.generator = torch.Generator().manual_seed(number)

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        logits = self.inner(x, rng)
        noise = torch.rand(logits.shape, generator=self.generator).to(logits) * 2 - 1
        return logits * (1 + JITTER * noise)


def round_otherwise(model: DefendedModel, number: int) -> DefendedModel:
    """``model`` with another rounding."""
    return _wrap(model, Rounded(model, number))


def _wrap(model: DefendedModel, wrapper: nn.Module) -> DefendedModel:
    """``model`` with ``wrapper`` around it: no shorter way round the network is taken."""
    return dataclasses.replace(model, module=wrapper.eval(), fast=None)


class Watched(Wrapper):
    """A network that remembers how near to its goal an attack on one sample came.

    That is the smallest margin of a point in the ball. For a random network one draw says nothing
    about a vote: nothing is remembered.
    """

    def __init__(
        self, model: DefendedModel, sample: Dataset, target: Tensor, threat: ThreatModel
    ) -> None:
        super().__init__(model.module)
        self.traits = model.traits
        self.x = sample.x
        self.y = sample.y
        self.target = target
        self.threat = threat
        self.nearest = math.inf

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        asked = x.detach().clone()  # the network may write over its input
        logits = self.inner(x, rng)
        if not self.traits.random:
            self._see(asked, logits.detach())
        return logits

    def _see(self, x: Tensor, logits: Tensor) -> None:
        y, target, clean = (self._expand(part, x) for part in (self.y, self.target, self.x))
        shown = credit_abstention(logits, y) if self.traits.abstains else logits
        closeness = relative(margin(shown, y, target), shown).abs()
        inside = self.threat.excess(x, clean) <= 0
        counts = inside & closeness.isfinite()
        self.nearest = min(self.nearest, float(closeness.masked_fill(~counts, math.inf).min()))

    def _expand(self, part: Tensor, x: Tensor) -> Tensor:
        """What belongs to the sample, once for each row of ``x``."""
        return part.to(x.device).expand(len(x), *part.shape[1:])


class Watch(NamedTuple):
    """A model, and what watches it."""

    model: DefendedModel
    watcher: Watched


def watch(model: DefendedModel, sample: Dataset, target: Tensor, threat: ThreatModel) -> Watch:
    """Watch ``model`` while one sample is attacked."""
    watcher = Watched(model, sample, target, threat)
    return Watch(_wrap(model, watcher), watcher)


def excuse(closeness: float) -> str | None:
    """What a new verdict stands on, where that is rounding.

    Args:
        closeness: its margin, in shares of the largest logit.
    """
    rounding = f"on a margin of {closeness:.1g} of the largest logit, which is rounding"
    return rounding if closeness <= TOLERANCE else None


def excuse_of_search(tried: int | None) -> str | None:
    """What a new verdict of a search stands on, where that is rounding.

    Args:
        tried: the number, from 1, of the search with other logits that ended as recorded; None if
            none did.
    """
    if tried is None:
        return None
    moved = f"with those moved by {JITTER:.0e}, attempt {tried} ends as recorded"
    return f"where the way of this search hangs on the last bits of the logits: {moved}"
