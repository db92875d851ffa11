"""Bounds to train with: those of all margins of a batch, with gradients for the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.hidden import INTERVALS, Bounding
from robustbench_lite.bounds.methods import STAGES, Question, Work, rows_back
from robustbench_lite.bounds.projections import projected_bounds
from robustbench_lite.bounds.region import region_of
from robustbench_lite.bounds.relaxation import chord
from robustbench_lite.threat.norms import Norm

TRAINING_BOUNDS = ("ibp", "crown-ibp", "crown-ibp-chord", "dual")
"""In the order of their cost.

``crown-ibp-chord`` is the dual network's last pass over hidden bounds by intervals.
"""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a bound to train with may cost.

    Args:
        bound: one of ``TRAINING_BOUNDS``.
        projections: for ``dual``: hidden bounds are estimated by so many random projections, which
            makes the result an estimate too; 0 computes them.
        settled: margins that intervals prove to be at least this keep that bound. What is left to a
            dearer one are the other classes, of the images that have any.
    """

    bound: str
    projections: int = 0
    settled: float = math.inf


def margin_bounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    effort: Effort,
    box: bool = False,
) -> Tensor:
    """Bound z_y - z_j from below over the ball around each image.

    Args:
        model: a network that ``certify`` takes, in eval mode.
        x: images (B, C, H, W), in the dtype that the bounds shall have.
        y: labels (B,).
        norm: of the ball.
        eps: its radius, in input units.
        effort: which bound, and where.
        box: perturbed images stay within [0, 1].

    Returns:
        (B, K); 0 for j = y.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
    """
    graph = graph_of(model, tuple(x.shape[1:]), x.dtype, live=True)
    radii = torch.full((len(x),), eps, dtype=x.dtype, device=x.device)
    work = Work(Bounding(graph, region_of(x, norm, radii, box=box)))
    others = ~F.one_hot(y, graph.classes).bool()  # (B, K)
    owner, other = others.nonzero(as_tuple=True)
    eye = torch.eye(graph.classes, dtype=x.dtype, device=x.device)
    question = Question(owner, eye[y[owner]] - eye[other])
    if effort.settled == math.inf or effort.bound == "ibp":
        found = _bounds(work, question, effort)
    else:
        found = STAGES["ibp"](work, question)
        rows = (found < effort.settled).nonzero().squeeze(1)
        if len(rows):
            kept, place = torch.unique_consecutive(owner[rows], return_inverse=True)
            open_work = Work(work.problem.take(kept))
            open_question = Question(place, question.rows[rows])
            found = found.index_put((rows,), _bounds(open_work, open_question, effort))
    return torch.zeros_like(others, dtype=x.dtype).masked_scatter(others, found)


def _bounds(work: Work, question: Question, effort: Effort) -> Tensor:
    """Bound the rows of ``question``, (M,)."""
    if effort.bound == "dual" and effort.projections:
        return rows_back(work, question, projected_bounds(work.problem, effort.projections), chord)
    if effort.bound == "crown-ibp-chord":
        return rows_back(work, question, work.bounds(INTERVALS), chord)
    return STAGES[effort.bound](work, question)
