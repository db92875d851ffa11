"""Rows go back through an activation, sample by sample.

A block of rows stays in the caches of a CPU, forth and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.bounds.relaxation import Lines
from robustbench_lite.bounds.windows import Segment


class Relaxed(NamedTuple):
    """Rows over the input of an activation.

    With them goes what its intercepts cost them and their negatives, (M,) each.
    """

    rows: Tensor
    cost: Tensor
    negative: Tensor


def relax(a: Tensor, lines: Lines, segments: Sequence[Segment]) -> Relaxed:
    """Take rows over the output of an activation back through its ``lines``.

    Negative coefficients meet the upper lines, with their intercepts; the others the lower lines.

    Args:
        a: the rows, (M, *shape).
        lines: around the activation.
        segments: which rows are of which sample.
    """
    last = a.dim() == 4 and not a.is_contiguous()
    # only what these rows need is laid out anew
    first = segments[0][0]
    end = segments[-1][0] + 1
    below, above, intercept = (
        _flat(part[first:end], last) for part in (lines.below, lines.above, lines.intercept)
    )
    own = [Segment(sample - first, part) for sample, part in segments]
    out, cost, negative = _Relax.apply(
        _flat(a, last), above if lines.parallel else below, above, intercept, own
    )
    if last:
        channels, high, wide = a.shape[1:]
        return Relaxed(out.reshape(-1, high, wide, channels).permute(0, 3, 1, 2), cost, negative)
    return Relaxed(out.reshape(a.shape), cost, negative)


def _flat(values: Tensor, channels_last: bool) -> Tensor:
    return (values.permute(0, 2, 3, 1) if channels_last else values).flatten(1)


class _Relax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        below: Tensor,
        above: Tensor,
        intercept: Tensor,
        segments: Sequence[Segment],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.parallel = below is above
        ctx.segments = segments
        ctx.save_for_backward(a, below, above, intercept)
        out = torch.empty_like(a)
        cost = a.new_empty(len(a))
        total = a.new_empty(len(a))
        for sample, part in segments:
            here = a[part]
            down = here.clamp(max=0)
            torch.mv(down, intercept[sample], out=cost[part])
            torch.mv(here, intercept[sample], out=total[part])
            if ctx.parallel:
                torch.mul(here, above[sample], out=out[part])
            else:
                torch.addcmul(down * above[sample], here - down, below[sample], out=out[part])
        return out, cost, cost - total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad: Tensor, grad_cost: Tensor, grad_negative: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, below, above, intercept = ctx.saved_tensors
        to_a, to_below, to_above, to_intercept = (
            torch.zeros_like(part) for part in (a, below, above, intercept)
        )
        both = grad_cost + grad_negative
        for sample, part in ctx.segments:
            here = a[part]
            back = grad[part]
            down = here.clamp(max=0)
            to_intercept[sample] = both[part] @ down - grad_negative[part] @ here
            free = (here < 0) * both[part].unsqueeze(1) - grad_negative[part].unsqueeze(1)
            if ctx.parallel:
                to_above[sample] = (back * here).sum(0)
                torch.addcmul(back * above[sample], free, intercept[sample], out=to_a[part])
            else:
                to_above[sample] = (back * down).sum(0)
                to_below[sample] = (back * (here - down)).sum(0)
                slope = torch.where(here < 0, above[sample], below[sample])
                torch.addcmul(back * slope, free, intercept[sample], out=to_a[part])
        return to_a, None if ctx.parallel else to_below, to_above, to_intercept, None
