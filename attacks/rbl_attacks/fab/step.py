"""One step of the Fast Adaptive Boundary attack, and where its rows stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rbl_attacks.fab.planes import moves_to_plane
from robustbench_lite.search import Answer, SampleRng, State
from robustbench_lite.search.targets import TargetTurns
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import Norm, per_row

RADII = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""Radius in which restarts begin where the threat has none (the authors' code)."""


@dataclass(frozen=True)
class FABState(State):
    x: Tensor
    x_adv: Tensor
    start: Tensor  # where each run begins
    step: Tensor  # (B,) steps of this run; -1 before the clean image was asked about
    turns: TargetTurns
    threat: ThreatModel
    classes: int  # of the model; 0 until it is known


class Plane(NamedTuple):
    """A linear model of z_t - z_y around the point that was asked about."""

    value: Tensor
    """(B,)."""
    gradient: Tensor
    """(B, C, H, W)."""


class Pace(NamedTuple):
    """Hyper-parameters of a step, named as in the paper."""

    alpha_max: float
    eta: float
    beta: float


def begin(x: Tensor, threat: ThreatModel, rng: SampleRng) -> Tensor:
    """Place the starts: the image in a first run, a random point near it in a restart."""
    radius = RADII[threat.norm.name] if threat.eps is None else threat.eps
    near = (x + threat.norm.random(x, radius / 2, rng, 0)).clamp_(0, 1)
    return torch.where((rng.restart > 0).reshape(-1, 1, 1, 1), near, x)


def nearest_plane(answer: Answer, norm: Norm) -> Plane:
    """Choose the class whose plane is nearest, where several were asked about (B, P)."""
    value = answer.need_loss()
    gradient = answer.need_gradient()
    if value.dim() == 1:
        return Plane(value, gradient)
    size = norm.dual_size(gradient.flatten(0, 1)).reshape(value.shape)
    nearest = (value.abs() / size.clamp_min(1e-12)).argmin(1)
    row = torch.arange(len(nearest), device=nearest.device)
    return Plane(value[row, nearest], gradient[row, nearest])


def go_on(state: FABState, plane: Plane, success: Tensor, pace: Pace) -> Tensor:
    """Move to the plane on which the boundary is thought to be, with a bias towards the image.

    Points that succeeded first go back to the image by a share of 1 - beta. The plane is that of
    the point itself, which lies nearer to the boundary, and its gradient is at hand.

    Args:
        state: where the rows stand.
        plane: at ``state.x_adv``.
        success: of that point, (B,).
        pace: how far to go.

    Returns:
        The next points, (B, C, H, W).
    """
    x = state.x.flatten(1)
    here = state.x_adv.flatten(1)
    back = torch.where(success, pace.beta, 1.0).unsqueeze(1)
    points = torch.stack([torch.lerp(x, here, back), x], 1)  # (B, 2, N)
    slope = plane.gradient.flatten(1)
    away = points - here.unsqueeze(1)
    gain = -plane.value.unsqueeze(1) - torch.linalg.vecdot(away, slope.unsqueeze(1))
    norm = state.threat.norm
    moves = moves_to_plane(norm.name, points, slope, gain)
    size = norm.size(moves.flatten(0, 1).unsqueeze(1)).reshape(gain.shape)
    bias = (size[:, 0] / size.sum(1).clamp_min(1e-12)).clamp_max(pace.alpha_max)
    ends = points.add_(moves, alpha=pace.eta)
    x_adv = torch.lerp(ends[:, 0], ends[:, 1], per_row(bias, x))
    return x_adv.clamp_(0, 1).reshape(state.x.shape)
