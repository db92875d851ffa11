"""Steps of Adam: Kingma and Ba 2015, "Adam: a method for stochastic optimization", arXiv:1412.6980.

An init/update pair: ``Moments.fresh`` before the first step, one of the updates at each. There are
three of these because one algorithm can be written in several orders of operations, which end at
different last bits: the attacks that use them have published verdicts, and these are kept.

    adam_update             algorithm 1
    adam_update_folded      the order at the end of section 2: both corrections are in the rate
    adam_update_in_place    folded too, without asking for memory

All work on values (B, ...) of any shape, each row at a step of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.rows.rows import Rows
from robustbench_lite.threat.norms import per_row

DECAY = 0.9
"""beta_1: what the mean keeps at each step."""
DECAY_SQUARE = 0.999
"""beta_2: what the mean square keeps."""
TINY = 1e-8
"""epsilon: keeps the divisor above 0."""


@dataclass(frozen=True)
class Moments(Rows):
    """Decaying means of the gradients and of their squares, shaped as the values."""

    mean: Tensor
    square: Tensor

    @classmethod
    def fresh(cls, values: Tensor) -> Moments:
        """Make the moments before the first step."""
        return cls(torch.zeros_like(values), torch.zeros_like(values))


class AdamStep(NamedTuple):
    """One step of Adam."""

    move: Tensor
    """What to take away from the values; shaped as they are."""
    moments: Moments
    """After the step."""


def adam_update(
    moments: Moments, gradient: Tensor, count: Tensor, rate: float | Tensor
) -> AdamStep:
    """Take one step in the order of algorithm 1.

    Args:
        moments: before the step.
        gradient: shaped as the values.
        count: steps that were taken, this one included; broadcasts over the values.
        rate: the learning rate; broadcasts likewise.
    """
    mean = moments.mean.lerp(gradient, 1 - DECAY)
    square = moments.square.lerp(gradient.square(), 1 - DECAY_SQUARE)
    spread = (square / (1 - DECAY_SQUARE**count)).sqrt() + TINY
    return AdamStep(rate * (mean / (1 - DECAY**count)) / spread, Moments(mean, square))


def adam_update_folded(moments: Moments, gradient: Tensor, count: Tensor) -> AdamStep:
    """Take one step of rate 1, where ``TINY`` is added to a root that is not corrected.

    Args:
        moments: before the step.
        gradient: shaped as the values.
        count: steps that were taken, this one included; broadcasts over the values.
    """
    mean = DECAY * moments.mean + (1 - DECAY) * gradient
    square = DECAY_SQUARE * moments.square + (1 - DECAY_SQUARE) * gradient**2
    rate = (1 - DECAY_SQUARE**count).sqrt() / (1 - DECAY**count)
    return AdamStep(rate * mean / (square.sqrt() + TINY), Moments(mean, square))


def adam_update_in_place(
    values: Tensor,
    moments: Moments,
    gradient: Tensor,
    count: Tensor,
    rate: float,
    *,
    scale: float,
    scratch: Tensor,
) -> None:
    """Take one step, writing ``values`` and ``moments`` over.

    On a CPU memory that is asked for anew costs more than the arithmetic. Nor is it worth a pass
    over memory to multiply a gradient by a constant: Adam does not care for its scale, apart from
    ``TINY``.

    Args:
        values: to be moved, (B, ...).
        moments: of ``scale`` times the gradient.
        gradient: ``scale`` times the gradient, shaped as the values.
        count: steps that each row has taken, this one included, (B,).
        rate: the learning rate.
        scale: what the gradient was multiplied by.
        scratch: memory shaped as the values, for the use of this step.
    """
    mean = moments.mean.lerp_(gradient, 1 - DECAY)
    square = moments.square.mul_(DECAY_SQUARE).addcmul_(gradient, gradient, value=1 - DECAY_SQUARE)
    unbias = (1 - DECAY_SQUARE**count).sqrt()  # (B,)
    step_size = rate * unbias / (1 - DECAY**count)  # (B,)
    spread = torch.sqrt(square, out=scratch).add_(per_row(scale * TINY * unbias, values))
    values.addcdiv_(mean, spread.div_(per_row(step_size, values)), value=-1)
