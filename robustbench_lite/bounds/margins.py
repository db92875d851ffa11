"""How the margins of a batch are bounded from below: by methods of rising cost, or by Lipschitz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.certificate import Certificate
from robustbench_lite.bounds.graph.graph import Graph
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.hidden import Bounding
from robustbench_lite.bounds.lipschitz import lipschitz_constant
from robustbench_lite.bounds.methods import STAGES, Question, Work
from robustbench_lite.bounds.region import region_of
from robustbench_lite.errors import UsageError
from robustbench_lite.threat.norms import Norm

NEAR = 2.0**-10
"""Margins this near zero, relative to the largest logit, are decided in float64.

That is a hundred times the errors of float32 seen.
"""
LOGIT_ROUNDING = 2.0**-21
"""What the float32 network may be off the numbers that are proved.

It is eight roundings of the largest logit.
"""

Prover = Callable[[Tensor, Tensor, Tensor], Certificate]
"""(images (B, C, H, W), labels (B,), radii (B,)) -> what is proved of them."""


class Graphs:
    """The network's graph in either precision, made when first needed."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.model = model
        self.shape = shape
        self.made: dict[torch.dtype, Graph] = {}

    def __call__(self, dtype: torch.dtype) -> Graph:
        if dtype not in self.made:
            self.made[dtype] = graph_of(self.model, self.shape, dtype)
        return self.made[dtype]


class _Margins(NamedTuple):
    """The smallest bounds over the classes of B samples."""

    margins: Tensor
    """(B,) float64."""
    stage: Tensor
    """The number of the stage that each came from, (B,)."""


@dataclass(frozen=True)
class ByMethods:
    """Prove with one of ``STAGES``, or with several of them one after the other."""

    graphs: Graphs
    norm: Norm
    method: str
    box: bool

    def prove(self, x: Tensor, y: Tensor, eps: Tensor) -> Certificate:
        """Bound the margins of B samples; see ``Prover``."""
        logits = self.graphs(torch.float64).forward(x)  # (B, K)
        if int(y.max()) >= logits.shape[1]:
            raise UsageError(
                f"The labels go up to {int(y.max())}, but the model has {logits.shape[1]} classes."
            )
        size = logits.abs().amax(1).clamp_min(1.0)
        found = self._bound(x, y, eps, logits, torch.float32)
        margins = found.margins
        stage = found.stage
        near = (margins.abs() < NEAR * size).nonzero().squeeze(1)
        if len(near):
            exact = self._bound(x[near], y[near], eps[near], logits[near], torch.float64)
            margins[near] = exact.margins
            stage[near] = exact.stage
        margins -= LOGIT_ROUNDING * size
        names = list(STAGES)
        return Certificate(
            certified=(margins > 0).cpu(),
            margins=margins.cpu(),
            stage=tuple(names[number] for number in stage.tolist()),
        )

    def _bound(
        self, x: Tensor, y: Tensor, eps: Tensor, logits: Tensor, dtype: torch.dtype
    ) -> _Margins:
        """Bound the margins in the precision of ``dtype``."""
        samples, classes = logits.shape
        region = region_of(x.to(dtype), self.norm, eps.to(dtype), box=self.box)
        work = Work(Bounding(self.graphs(dtype), region))
        itself = F.one_hot(y, classes).bool()
        bound = torch.full_like(logits, -torch.inf).masked_fill(itself, torch.inf)  # (B, K)
        stage = torch.zeros_like(bound, dtype=torch.int64)
        here = torch.arange(samples, device=x.device)  # samples that are in work
        right = logits.argmax(1) == y
        eye = torch.eye(classes, dtype=dtype, device=x.device)
        order = list(STAGES)
        for name in self._stages():
            open_classes = ~itself[here]
            if self.method != "alpha" or name == "alpha":
                open_classes &= bound[here] <= 0
            stay = open_classes.any(1)
            if self.method == "auto" and name != "ibp":
                stay &= right[here]  # what is wrong already needs no better bound
            if not bool(stay.any()):
                break
            if not bool(stay.all()):
                kept = stay.nonzero().squeeze(1)
                work = work.take(kept)
                here = here[kept]
                open_classes = open_classes[kept]
            owner, other = open_classes.nonzero(as_tuple=True)
            found = STAGES[name](work, Question(owner, eye[y[here[owner]]] - eye[other])).double()
            at = here[owner], other
            stage[at] = torch.where(found > bound[at], order.index(name), stage[at])
            bound[at] = torch.maximum(bound[at], found)
        least = bound.min(1)
        return _Margins(least.values, stage.gather(1, least.indices.unsqueeze(1)).squeeze(1))

    def _stages(self) -> Sequence[str]:
        """Name the stages that are run, in turn."""
        if self.method == "auto":
            return list(STAGES)
        return ["dual", "crown", "alpha"] if self.method == "alpha" else [self.method]


def by_lipschitz(graphs: Graphs, norm: Norm) -> Prover:
    """Prove that margin > sqrt(2) L eps, in L2.

    The difference of two logits changes by at most sqrt(2) times what the logits do.

    Raises:
        UsageError: ``norm`` is another.
    """
    if norm.name != "l2":
        raise UsageError(
            f"The method 'lipschitz' proves L2 radii, not {norm.name}: use norm='l2' (--norm l2), "
            "or another method."
        )
    graph = graphs(torch.float64)
    slope = 2**0.5 * lipschitz_constant(graph)

    def prove(x: Tensor, y: Tensor, eps: Tensor) -> Certificate:
        logits = graph.forward(x)  # (B, K)
        label = y.unsqueeze(1)
        others = logits.scatter(1, label, -torch.inf).amax(1)
        clean = logits.gather(1, label).squeeze(1) - others
        clean = clean - LOGIT_ROUNDING * logits.abs().amax(1).clamp_min(1.0)
        margins = clean - slope * eps
        radius = clean / slope if slope > 0 else torch.full_like(clean, torch.inf)
        return Certificate(
            certified=(margins > 0).cpu(),
            margins=margins.cpu(),
            stage=("lipschitz",) * len(margins),
            radius=radius.clamp_min(0).cpu(),
        )

    return prove
