"""On which margin a verdict stands, where a sample that is measured again gets another than the record has."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor, nn

from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.records.cell import Record
from robustbench_lite.records.provenance import torch_version
from robustbench_lite.search.defended import DefendedModel, Wrapper, credited
from robustbench_lite.search.losses import margin, relative
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel


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
    """``model``, and what watches it: no shorter way round the network is taken."""
    watch = Watched(model, sample, target, threat)
    module: nn.Module = watch
    return dataclasses.replace(model, module=module.eval(), fast=None), watch


def excuse(record: Record, closeness: float) -> str | None:
    """Why a verdict that differs from that of ``record`` is none of another network or attack; None where it may well be.

    ``closeness`` is the margin that the new verdict stands on, in shares of the largest logit.
    """
    then, now = record.provenance.versions.get("torch", "unknown"), torch_version()
    if then == now or not closeness <= TOLERANCE:
        return None
    margin_said = f"a margin of {closeness:.1g} of the largest logit, which is rounding"
    return f"recorded under torch {then}, measured again under {now}, on {margin_said}"
