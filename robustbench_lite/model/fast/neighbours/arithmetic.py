"""Sums, products and the like, as operations that windows know."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustbench_lite.model.arithmetic import ARITHMETIC
from robustbench_lite.model.fast.neighbours.calls import name_of
from robustbench_lite.model.fast.neighbours.operations import AffineOperation, Call, SumOperation


def call_of_arithmetic(target: Any, left: Any, right: Any, shape: Sequence[int]) -> Call | None:
    """Read a sum, a product or the like.

    Args:
        target: the operator or the method's name.
        left: a constant, or None for the tensor.
        right: likewise.
        shape: that of the tensor.

    Returns:
        None where windows do not know it.
    """
    sign = ARITHMETIC.get(name_of(target))
    constants = [part for part in (left, right) if part is not None]
    if sign is None or any(not isinstance(part, int | float | Tensor) for part in constants):
        return None
    if not constants:
        linear = sign in (operator.add, operator.sub)
        return (
            Call(SumOperation((1.0, 1.0 if sign is operator.add else -1.0)), sign)
            if linear
            else None
        )
    constant = _by_channel(constants[0], shape)
    if constant is None or (left is not None and sign is operator.truediv):
        return None
    whole = (lambda x: sign(x, right)) if left is None else (lambda x: sign(left, x))
    if sign in (operator.add, operator.sub):
        turned = left is not None and sign is operator.sub
        return Call(AffineOperation(torch.tensor(-1.0) if turned else None), whole)
    return Call(AffineOperation(constant if sign is operator.mul else 1 / constant), whole)


def _by_channel(constant: float | Tensor, shape: Sequence[int]) -> Tensor | None:
    """Shape ``constant`` as (C,) or ().

    None where it differs from place to place, or makes the result larger.
    """
    tensor = torch.as_tensor(constant)
    if tensor.numel() == 1 and tensor.dim() <= len(shape):
        return tensor.reshape(())
    sizes = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    return tensor.reshape(-1) if sizes == (1, shape[1]) + (1,) * (len(shape) - 2) else None
