"""What a gradient attack climbs: one loss a sample, never averaged over the batch.

``target`` is -1 for "away from y" and a class for "towards it". Every loss rises as the attack gets
closer to its goal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.rows.looks import surely_none

_SATURATED = 2.0**-24
"""A cross-entropy below this is 0: p of the class is 1 in float32.

The next value that there is, log(1 + 2^-23), comes out on either side of 2^-23 from one release of
torch to the next, so the threshold lies half way.
"""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, K), y (N,), target (N,)) -> (N,)."""
LossName = Literal["ce", "margin", "dlr"]


def margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Measure how far each row is from success, (N,); negative is success, a tie is none.

    Untargeted z_y - max_{j != y} z_j, targeted max_{j != t} z_j - z_t.
    """
    if _untargeted(target):
        return _lead(logits, y)
    targeted = target >= 0
    lead = _lead(logits, torch.where(targeted, target, y))
    return torch.where(targeted, -lead, lead)


def relative(margins: Tensor, logits: Tensor) -> Tensor:
    """Divide ``margins`` (N,) by the largest finite logit of each row of ``logits`` (N, K).

    Rounding is a share of that.
    """
    largest = logits.abs().masked_fill(~logits.isfinite(), 0).amax(1)
    return margins / largest.clamp_min(torch.finfo(largest.dtype).tiny)


def _lead(logits: Tensor, label: Tensor) -> Tensor:
    """Measure by how much the class ``label`` (N,) is ahead of the best other, (N,)."""
    lead: Tensor = _Lead.apply(logits, label.unsqueeze(1))
    return lead


class _Lead(torch.autograd.Function):
    """The lead of a class, with a gradient of two operations instead of ten.

    Beside a small network the difference shows.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor) -> Tensor:
        best, rival = logits.scatter(1, label, float("-inf")).max(1, keepdim=True)  # (N, 1)
        ctx.save_for_backward(label, rival)
        ctx.shape = logits.shape
        return (logits.gather(1, label) - best).squeeze(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        label, rival = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        return grad.new_zeros(ctx.shape).scatter_(1, label, grad).scatter_(1, rival, -grad), None


def _untargeted(target: Tensor) -> bool:
    """Tell whether a free look shows that no row has a class to reach."""
    return surely_none(target >= 0)


def margin_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Compute the negative margin (Carlini and Wagner 2017, arXiv:1608.04644, f_6)."""
    return -margin(logits, y, target)


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Compute the cross-entropy towards y or, where there is a target, its negative towards that.

    Both read as a loss to climb. Where float32 saturates (p of the class is exactly 1, or of the
    target exactly 0 in the gradient), the softmax has no gradient left and a model with large
    logits would look robust: those rows climb the margin instead.
    """
    if _untargeted(target):
        loss = F.cross_entropy(logits, y, reduction="none")
        saturated = loss.detach() < _SATURATED
        return loss if surely_none(saturated) else torch.where(saturated, -_lead(logits, y), loss)
    targeted = target >= 0
    loss = F.cross_entropy(logits, torch.where(targeted, target, y), reduction="none")
    climb = torch.where(targeted, -loss, loss)
    saturated = (loss.detach() < _SATURATED) & ~targeted
    return torch.where(saturated, margin_loss(logits, y, target), climb)


def difference_of_logits_ratio(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Compute the DLR: a margin that no rescaling of the logits changes.

    It is that of Croce and Hein 2020, arXiv:2003.01690, equations 6 and 7. With fewer than three
    classes (four when targeted) the denominator falls back to the spread of the logits. That can be
    the margin itself, and a constant ratio has no gradient: there the denominator only scales.
    """
    # Stable: of equal logits the gradient goes to the first.
    ordered = logits.sort(dim=1, descending=True, stable=True).values
    classes = logits.shape[1]
    spread = ordered[:, 0] - ordered[:, min(2, classes - 1)]
    rivals = (ordered[:, 2] + ordered[:, 3]) / 2 if classes >= 4 else ordered[:, -1]
    spread_targeted = ordered[:, 0] - rivals
    spread = spread if classes >= 3 else spread.detach()
    spread_targeted = spread_targeted if classes >= 4 else spread_targeted.detach()
    own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    goal = logits.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1)
    untargeted = margin_loss(logits, y, torch.full_like(target, -1)) / (spread + 1e-12)
    return torch.where(target >= 0, (goal - own) / (spread_targeted + 1e-12), untargeted)


def logit_difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Compute z_target - z_y: how far one class is behind, whatever the others do.

    The margin loss where there is no target.
    """
    own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    goal = logits.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1)
    if surely_none(target < 0):
        return goal - own
    return torch.where(target >= 0, goal - own, -_lead(logits, y))


LOSSES: dict[LossName, Loss] = {
    "ce": cross_entropy,
    "margin": margin_loss,
    "dlr": difference_of_logits_ratio,
}
