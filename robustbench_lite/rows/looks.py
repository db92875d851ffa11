"""Looks at the values of a tensor, from within an algorithm.

On a CPU a look is free, and branching on what it shows saves work. An accelerator would have to
finish all that it was given before it could answer, so there the work is done for every row
instead, and masks sort out the results.
"""

from __future__ import annotations

import torch
from torch import Tensor


def looks_are_free(device: torch.device) -> bool:
    """Tell whether values on ``device`` can be looked at without waiting for them."""
    return device.type == "cpu"


def free_to_look(tensor: Tensor) -> bool:
    """Tell whether the values of ``tensor`` can be looked at without waiting for them."""
    return looks_are_free(tensor.device)


def surely_all(claims: Tensor) -> bool:
    """Tell whether a free look shows that all ``claims`` (bool, of any shape) are true."""
    return free_to_look(claims) and bool(claims.all())


def surely_none(claims: Tensor) -> bool:
    """Tell whether a free look shows that none of the ``claims`` (bool, of any shape) is true."""
    return free_to_look(claims) and not bool(claims.any())
