"""Random projections: estimates of the dual network's hidden bounds, to train with.

They take a handful of forward passes. Wong et al. 2018, "Scaling provable adversarial defenses",
arXiv:1805.12514. An estimate is no bound: never certify with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_lite.bounds.graph.operations import Activation, Affine, Input, Reshape, Sum
from robustbench_lite.bounds.hidden import CHORDS, Bounding, Bounds, is_exact, node_interval
from robustbench_lite.bounds.region import Interval, L2Region
from robustbench_lite.bounds.relaxation import chord

_CHUNK = 2**20
"""Values that one forward pass of projections holds, about: they stay in the caches of a CPU."""


def projected_bounds(problem: Bounding, count: int) -> Bounds:
    """Estimate the equal-slope bounds of every activation's input.

    The estimate is from ``count`` draws of torch's global generator.
    """
    nodes = problem.graph.nodes
    passes = _Passes(problem, count)
    activations = problem.graph.activations()
    read = {nodes[index].inputs[0] for index in activations}
    for index in range(max(activations, default=0)):
        passes.found[index] = node_interval(problem, index, passes.found, CHORDS)
        passes.forward(index)
        if index in read and not is_exact(problem, index):
            passes.found[index] = passes.estimate(index)
    return passes.found


@dataclass
class _Passes:
    """The network between its two parallel lines.

    Every activation is D z + t / 2, give or take t / 2. So a unit is a linear function of the image
    and of one such uncertainty an activation. How far each of them moves it is the norm of a row
    that is never formed: the median of the absolute projections on Cauchy vectors (1-norm), or the
    root mean square of those on Gaussian ones (2-norm).
    """

    problem: Bounding
    count: int
    found: Bounds = field(default_factory=dict)
    centres: list[Tensor] = field(default_factory=list)
    projections: list[dict[int, Tensor]] = field(default_factory=list)
    """Of each node: source of uncertainty -> (B, count, *shape)."""

    def forward(self, index: int) -> None:
        node = self.problem.graph.nodes[index]
        centres = [self.centres[source] for source in node.inputs]
        parts = [self.projections[source] for source in node.inputs]
        match node.operation:
            case Input():
                box = self.problem.region.box
                centre = (box.lower + box.upper) / 2
                moved = {index: self._image()}
            case Activation():
                lines = chord(node.operation, self.found[node.inputs[0]])
                half = lines.intercept / 2
                centre = lines.above * centres[0] + half
                moved = {
                    source: part * lines.above.unsqueeze(1) for source, part in parts[0].items()
                }
                moved[index] = half.unsqueeze(1) * self._cauchy(half)
            case Sum(weights):
                centre = sum(
                    (w * c for w, c in zip(weights, centres, strict=True)),
                    torch.zeros_like(centres[0]),
                )
                moved = {}
                for weight, branch in zip(weights, parts, strict=True):
                    for source, part in branch.items():
                        moved[source] = (
                            moved[source] + weight * part if source in moved else weight * part
                        )
            case Reshape():
                centre = centres[0].reshape(len(centres[0]), *node.shape)
                moved = {
                    source: part.reshape(*part.shape[:2], *node.shape)
                    for source, part in parts[0].items()
                }
            case Affine():
                centre = node.operation.forward(centres[0])
                moved = {
                    source: self._linear(node.operation, part) for source, part in parts[0].items()
                }
        self.centres.append(centre)
        self.projections.append(moved)

    def estimate(self, index: int) -> Interval:
        centre = self.centres[index]
        radius = torch.zeros_like(centre)
        for source, part in self.projections[index].items():
            gaussian = source == 0 and isinstance(self.problem.region, L2Region)
            radius = radius + (
                part.square().mean(1).sqrt() if gaussian else part.abs().median(1).values
            )
        return Interval(centre - radius, centre + radius)

    def _linear(self, operation: Affine, part: Tensor) -> Tensor:
        flat = part.flatten(0, 1)
        offset = operation.forward(torch.zeros_like(flat[:1]))
        size = max(1, _CHUNK // max(flat[0].numel(), offset.numel()))
        out = torch.cat([operation.forward(piece) - offset for piece in torch.split(flat, size)])
        return out.reshape(*part.shape[:2], *out.shape[1:])

    def _image(self) -> Tensor:
        region = self.problem.region
        if isinstance(region, L2Region):
            centre = region.centre
            draws = torch.randn(
                len(centre), self.count, *centre.shape[1:], dtype=centre.dtype, device=centre.device
            )
            return draws * region.eps.reshape(-1, *([1] * centre.dim()))
        half = (region.box.upper - region.box.lower) / 2
        return half.unsqueeze(1) * self._cauchy(half)

    def _cauchy(self, like: Tensor) -> Tensor:
        return torch.empty(
            len(like), self.count, *like.shape[1:], dtype=like.dtype, device=like.device
        ).cauchy_()
