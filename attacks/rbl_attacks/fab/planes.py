"""The nearest point of a plane within the bounds [0, 1] of an image, in Linf, L2 and L1.

Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary
attack", arXiv:1907.02044, section 2.2. Each coordinate moves the way of the gradient until the
plane is reached, or until its bound stops it:

    Linf    all equally far
    L2      as far as their gradient is large
    L1      one after the other, the largest gradients first

So Linf and L2 have one unknown, a level; what a level gains is concave and piecewise linear in it,
and Newton's method from 0 ends at the root after a few rounds, without a sort.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.rows.looks import surely_all

ROUNDS = 40
"""Of Newton's method, at most; six are common. A row that is done stays where it is."""
CLOSE = 1 + 1e-6
"""A level that rises by less has arrived: sums in float32 know no better."""
FAR = 1e30
"""The level of a plane that no point within the bounds reaches: all go to their bounds."""


def moves_to_plane(norm: str, points: Tensor, gradient: Tensor, gain: Tensor) -> Tensor:
    """Find the smallest moves after which a linear function has risen by ``gain``.

    Args:
        norm: by which a move is measured: ``linf``, ``l2`` or ``l1``.
        points: within the bounds, Q of each row, (B, Q, N).
        gradient: of the function, (B, N).
        gain: to be reached, of either sign, (B, Q).

    Returns:
        (B, Q, N). Where the bounds are too narrow it is the move that gains the most.
    """
    scale = gradient.abs().amax(1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    gradient = (gradient / scale).unsqueeze(1)  # (B, 1, N)
    need = (gain / scale).unsqueeze(2)  # (B, Q, 1)
    way = gradient.sign() * need.sign()
    room = torch.where(way > 0, 1 - points, points).mul_(way.abs())
    need = need.abs()
    weight = gradient.abs()
    if norm == "l1":
        return _largest_first(room, weight, need).mul_(way)
    speed = weight if norm == "l2" else torch.ones_like(weight)
    level = _level(room, weight, speed, need)
    return torch.minimum(level * speed, room).mul_(way)


def _level(room: Tensor, weight: Tensor, speed: Tensor, need: Tensor) -> Tensor:
    """Find the level at which sum(weight min(level speed, room)) is ``need``, (B, Q, 1)."""
    most = weight * room  # (B, Q, N)
    rate = weight * speed  # (B, 1, N)
    all_of_it = most.sum(2, keepdim=True)
    level = (need / rate.sum(2, keepdim=True).clamp_min(1e-30)).clamp_max(FAR)
    for _ in range(ROUNDS):
        free = (room > level * speed).to(room.dtype)
        slope = torch.linalg.vecdot(rate, free).unsqueeze(2)
        held = all_of_it - torch.linalg.vecdot(most, free).unsqueeze(2)
        raised = torch.where(slope > 0, (need - held) / slope, FAR).clamp_max(FAR).maximum(level)
        still = (raised <= level * CLOSE) | ((slope == 0) & (need <= held))
        level = torch.where(still, level, raised)
        if surely_all(still):
            break
    return level


def _largest_first(room: Tensor, weight: Tensor, need: Tensor) -> Tensor:
    """How far each coordinate goes where those of large ``weight`` go first, (B, Q, N)."""
    order = weight.argsort(dim=2, descending=True, stable=True)  # (B, 1, N)
    weight = weight.gather(2, order)
    order = order.expand_as(room)
    room = room.gather(2, order)
    gains = weight * room
    before = gains.cumsum(2).sub_(gains)
    short = (need - before).div_(weight.clamp_min(torch.finfo(weight.dtype).tiny))
    amount = torch.minimum(short.clamp_min_(0), room)
    return torch.empty_like(room).scatter_(2, order, amount)
