"""Lower bounds of margins, one function a method; a method of rising cost after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_lite.bounds.backward import Backward
from robustbench_lite.bounds.graph.operations import Activation
from robustbench_lite.bounds.hidden import (
    ADAPTIVE,
    CHORDS,
    INTERVALS,
    Bounding,
    Bounds,
    Method,
    Relaxation,
    chunks,
    hidden_bounds,
    lines_of,
)
from robustbench_lite.bounds.region import Interval
from robustbench_lite.bounds.relaxation import Lines, adaptive, chord, image
from robustbench_lite.bounds.windows import WindowRows

ALPHA_STEPS = 30
ALPHA_RATE = 0.25
ALPHA_DECAY = 0.96
"""Steps of Adam, and how far the first moves a slope; alpha-CROWN (Xu et al. 2021,
arXiv:2011.13824) takes about the same.
"""
_LOOK = 5
"""Rows that are proved leave the optimisation after so many steps."""


@dataclass
class Work:
    """A problem, and the bounds of its hidden units as methods have asked for them."""

    problem: Bounding
    known: dict[Method, Bounds] = field(default_factory=dict)

    def bounds(self, method: Method) -> Bounds:
        if method not in self.known:
            self.known[method] = hidden_bounds(self.problem, method)
        return self.known[method]

    def take(self, index: Tensor) -> Work:
        """What is left when only some of the samples go on."""
        known = {
            method: {
                node: Interval(part.lower[index], part.upper[index])
                for node, part in bounds.items()
            }
            for method, bounds in self.known.items()
        }
        return Work(self.problem.take(index), known)


@dataclass(frozen=True)
class Question:
    """M rows over the logits that shall be bounded from below."""

    owner: Tensor
    """The sample of each row, (M,), rising."""
    rows: Tensor
    """(M, K)."""

    def take(self, index: Tensor | slice) -> Question:
        return Question(self.owner[index], self.rows[index])


Stage = Callable[[Work, Question], Tensor]
"""(work, question) -> a lower bound of each row, (M,)."""


def interval_stage(work: Work, question: Question) -> Tensor:
    """Propagate intervals (Gowal et al. 2018, arXiv:1810.12715).

    The last affine layers are done as one.
    """
    nodes = work.problem.graph.nodes
    found = work.bounds(INTERVALS)
    stop = {
        index: image(node.operation, found[node.inputs[0]])
        for index, node in enumerate(nodes)
        if isinstance(node.operation, Activation)
    }
    return _in_chunks(work, question, {}, stop)


def crown_interval_stage(work: Work, question: Question) -> Tensor:
    """Bound margins by a backward pass over hidden intervals: CROWN-IBP.

    Zhang et al. 2020, arXiv:1906.06316.
    """
    return rows_back(work, question, work.bounds(INTERVALS), adaptive)


def dual_stage(work: Work, question: Question) -> Tensor:
    """Bound margins with one slope for both lines: the dual network, which is Fast-Lin.

    Wong and Kolter 2018, arXiv:1711.00851.
    """
    return rows_back(work, question, work.bounds(CHORDS), chord)


def crown_stage(work: Work, question: Question) -> Tensor:
    """Bound margins with a lower slope of 0 or 1, whichever leaves the smaller area: CROWN.

    Zhang et al. 2018, arXiv:1811.00866.
    """
    return rows_back(work, question, work.bounds(ADAPTIVE), adaptive)


def alpha_stage(work: Work, question: Question) -> Tensor:
    """Optimise the lower slopes for each row; the best bound of all steps counts.

    Xu et al. 2021, arXiv:2011.13824. Hidden units keep the tighter of their equal-slope and
    adaptive bounds.
    """
    one = work.bounds(CHORDS)
    other = work.bounds(ADAPTIVE)
    both = {
        node: Interval(
            torch.maximum(part.lower, other[node].lower),
            torch.minimum(part.upper, other[node].upper),
        )
        for node, part in one.items()
    }
    lines = lines_of(work.problem, both, adaptive)
    parts = chunks(work.problem, work.problem.graph.output, len(question.owner), at_units=False)
    return torch.cat([_Slopes(work.problem, question.take(part), lines).best() for part in parts])


STAGES: dict[str, Stage] = {
    "ibp": interval_stage,
    "crown-ibp": crown_interval_stage,
    "dual": dual_stage,
    "crown": crown_stage,
    "alpha": alpha_stage,
}
"""In the order of their cost."""


class _Slopes:
    """The optimisation of one chunk of rows.

    Nothing a row does depends on the others, so they may leave at any time.
    """

    def __init__(self, problem: Bounding, question: Question, lines: dict[int, Lines]) -> None:
        self.problem = problem
        self.question = question
        self.lines = lines
        self.floors = {i: getattr(problem.graph.nodes[i].operation, "slope", 0.0) for i in lines}
        owner = question.owner
        self.slopes = {i: line.below.index_select(0, owner) for i, line in lines.items()}
        """Of each activation, (M, *shape)."""
        self.first = {i: torch.zeros_like(slope) for i, slope in self.slopes.items()}
        self.second = {i: torch.zeros_like(slope) for i, slope in self.slopes.items()}

    def best(self) -> Tensor:
        best = self.rows_bound().detach()
        here = torch.arange(len(best), device=best.device)
        for step in range(1, ALPHA_STEPS + 1) if self.slopes else ():
            bound = self._step(step)
            best[here] = torch.maximum(best[here], bound)
            if step % _LOOK == 0:
                stay = (best[here] <= 0).nonzero().squeeze(1)
                if len(stay) == 0:
                    break
                here = here[stay]
                self._keep(stay)
        return best

    def rows_bound(self) -> Tensor:
        rows = Backward(self.problem.graph, WindowRows.of(self.question.owner))
        rows.start(self.problem.graph.output, self.question.rows)
        return rows.run(self.problem.region, self.lines, self.slopes).lower

    def _step(self, step: int) -> Tensor:
        """One step of Adam upwards; returns the bound it has reached, (M,)."""
        for slope in self.slopes.values():
            slope.requires_grad_()
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                self.rows_bound().sum(), list(self.slopes.values()), allow_unused=True
            )
        rate = ALPHA_RATE * ALPHA_DECAY ** (step - 1)
        for (index, slope), gradient in zip(self.slopes.items(), gradients, strict=True):
            self.slopes[index] = slope = slope.detach()
            if gradient is None:  # an activation that the logits do not depend on
                continue
            first = self.first[index]
            second = self.second[index]
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-12)
            self.slopes[index] = (slope + rate / (1 - 0.9**step) * first / scale).clamp_(
                self.floors[index], 1.0
            )
        return self.rows_bound().detach()

    def _keep(self, stay: Tensor) -> None:
        self.question = self.question.take(stay)
        for part in (self.slopes, self.first, self.second):
            part.update({index: value[stay] for index, value in part.items()})


def rows_back(work: Work, question: Question, bounds: Bounds, relaxation: Relaxation) -> Tensor:
    """Bounds of the rows through the lines of all activations, whose inputs lie in ``bounds``."""
    return _in_chunks(work, question, lines_of(work.problem, bounds, relaxation), None)


def _in_chunks(
    work: Work, question: Question, lines: dict[int, Lines], stop: dict[int, Interval] | None
) -> Tensor:
    problem = work.problem
    found = []
    for part in chunks(problem, problem.graph.output, len(question.owner), at_units=False):
        rows = Backward(problem.graph, WindowRows.of(question.owner[part]))
        rows.start(problem.graph.output, question.rows[part])
        found.append(rows.run(problem.region, lines, stop=stop).lower)
    return torch.cat(found)
