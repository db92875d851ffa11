"""Certificates: which samples no perturbation of the threat can break.

Bounds are computed in float32. A sample whose margin comes near zero is done again in float64,
whose rounding no margin that is reported can notice; and every margin is lowered by what the
network's own float32 logits may be off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.bounds.graph.graph import Graph
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.hidden import Problem
from robustbench_lite.bounds.lipschitz import lipschitz_constant
from robustbench_lite.bounds.methods import STAGES, Question, Work
from robustbench_lite.bounds.region import region_of
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.machine.devices import device_of, proving_device
from robustbench_lite.machine.memory import keep_freed_memory
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.copies import own_copy
from robustbench_lite.threat.norms import Norm, norm_by_name

METHODS = (*STAGES, "auto", "lipschitz")
NEAR = 2.0**-10
"""Margins this near zero, relative to the largest logit, are decided in float64: a hundred times
the errors of float32 seen.
"""
LOGIT_ROUNDING = 2.0**-21
"""Eight roundings of the largest logit: what the float32 network may be off the numbers that are
proved.
"""


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
    """``lipschitz`` only: the L2 radius that is proved, (N,) float64; 0 where the clean image is
    misclassified.
    """
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


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | Norm = "linf",
    eps: float | Tensor,
    method: str = "auto",
    box: bool = True,
    batch_size: int = 64,
) -> Certificate:
    """Bound the margin of every sample from below; see :func:`proofs`."""
    return join(
        list(proofs(model, x, y, norm=norm, eps=eps, method=method, box=box, batch_size=batch_size))
    )


@exactly
@torch.no_grad()
def proofs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | Norm = "linf",
    eps: float | Tensor,
    method: str = "auto",
    box: bool = True,
    batch_size: int = 64,
) -> Iterator[Certificate]:
    """The margins of ``batch_size`` samples after the other, bounded from below.

    Args:
        model: a network in eval mode, on the device that shall do the work (a copy on the CPU does
            it where that device has no float64); images (B, C, H, W) -> logits (B, K).
        x: images (N, C, H, W) in [0, 1]; ``y``: labels (N,).
        eps: radius in input units, one number or one a sample (N,).
        method: one of ``METHODS``. ``alpha`` starts from ``dual`` and ``crown``; ``auto`` runs all
            but ``lipschitz`` in the order of their cost, each only on what is still open.
        box: perturbed images stay within [0, 1]; without, the whole ball is covered.
        batch_size: samples at a time; no bound depends on it.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    chosen = norm_by_name(norm)
    radii = torch.as_tensor(eps, dtype=torch.float64).expand(len(x))
    if not bool((radii >= 0).all()):
        raise UsageError("eps must be a number of at least 0, or one for each sample.")
    device = proving_device(device_of(model))
    if device != device_of(model):
        model = own_copy(model).to(device)
    if device.type == "cpu":
        keep_freed_memory()
    graphs = _Graphs(model, tuple(x.shape[1:]))
    batch = (
        _by_lipschitz(graphs, chosen)
        if method == "lipschitz"
        else _Run(graphs, chosen, method, box).batch
    )
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        yield batch(x[part].to(device), y[part].to(device), radii[part].to(device))


class _Graphs:
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
class _Run:
    graphs: _Graphs
    norm: Norm
    method: str
    box: bool

    def batch(self, x: Tensor, y: Tensor, eps: Tensor) -> Certificate:
        logits = self.graphs(torch.float64).forward(x)  # (B, K)
        if int(y.max()) >= logits.shape[1]:
            raise UsageError(
                f"The labels go up to {int(y.max())}, but the model has {logits.shape[1]} classes."
            )
        size = logits.abs().amax(1).clamp_min(1.0)
        found = self._margins(x, y, eps, logits, torch.float32)
        margins = found.margins
        stage = found.stage
        near = (margins.abs() < NEAR * size).nonzero().squeeze(1)
        if len(near):
            exact = self._margins(x[near], y[near], eps[near], logits[near], torch.float64)
            margins[near] = exact.margins
            stage[near] = exact.stage
        margins -= LOGIT_ROUNDING * size
        return Certificate(
            (margins > 0).cpu(), margins.cpu(), tuple(list(STAGES)[i] for i in stage.tolist())
        )

    def _margins(
        self, x: Tensor, y: Tensor, eps: Tensor, logits: Tensor, dtype: torch.dtype
    ) -> _Margins:
        graph, (samples, classes) = self.graphs(dtype), logits.shape
        work = Work(Problem(graph, region_of(x.to(dtype), self.norm, eps.to(dtype), box=self.box)))
        itself = torch.nn.functional.one_hot(y, classes).bool()
        bound = torch.full_like(logits, -torch.inf).masked_fill(itself, torch.inf)  # (B, K)
        stage = torch.zeros_like(bound, dtype=torch.int64)
        here = torch.arange(samples, device=x.device)  # samples that are in work
        right = logits.argmax(1) == y
        order = list(STAGES)
        for name in self._stages():
            open_classes = (
                ~itself[here]
                if self.method == "alpha" and name != "alpha"
                else (bound[here] <= 0) & ~itself[here]
            )
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
            eye = torch.eye(classes, dtype=dtype, device=x.device)
            found = STAGES[name](work, Question(owner, eye[y[here[owner]]] - eye[other])).double()
            at = here[owner], other
            stage[at] = torch.where(found > bound[at], order.index(name), stage[at])
            bound[at] = torch.maximum(bound[at], found)
        least = bound.min(1)
        return _Margins(least.values, stage.gather(1, least.indices.unsqueeze(1)).squeeze(1))

    def _stages(self) -> Sequence[str]:
        if self.method == "auto":
            return list(STAGES)
        return ["dual", "crown", "alpha"] if self.method == "alpha" else [self.method]


def _by_lipschitz(graphs: _Graphs, norm: Norm) -> Callable[[Tensor, Tensor, Tensor], Certificate]:
    """margin > sqrt(2) L eps: the difference of two logits changes by at most sqrt(2) times what
    the logits do (L2).
    """
    if norm.name != "l2":
        raise UsageError(
            f"The method 'lipschitz' proves L2 radii, not {norm.name}: use norm='l2' (--norm l2), "
            "or another method."
        )
    graph = graphs(torch.float64)
    slope = 2**0.5 * lipschitz_constant(graph)

    def batch(x: Tensor, y: Tensor, eps: Tensor) -> Certificate:
        logits = graph.forward(x)
        label = y.unsqueeze(1)
        others = logits.scatter(1, label, -torch.inf).amax(1)
        clean = (
            logits.gather(1, label).squeeze(1)
            - others
            - LOGIT_ROUNDING * logits.abs().amax(1).clamp_min(1.0)
        )
        margins = clean - slope * eps
        radius = (clean / slope if slope > 0 else torch.full_like(clean, torch.inf)).clamp_min(0)
        return Certificate(
            (margins > 0).cpu(), margins.cpu(), ("lipschitz",) * len(margins), radius.cpu()
        )

    return batch


def join(parts: Sequence[Certificate]) -> Certificate:
    """The certificates of one batch after the other as one."""
    if not parts:
        raise UsageError("There is no sample to certify.")
    radii = [part.radius for part in parts if part.radius is not None]
    return Certificate(
        torch.cat([part.certified for part in parts]),
        torch.cat([part.margins for part in parts]),
        tuple(name for part in parts for name in part.stage),
        torch.cat(radii) if radii else None,
    )
