"""Masked gradients: signs that attacks by gradients learn nothing from a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.errors import ModelError, told
from robustbench_lite.machine.devices import device_of
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin
from robustbench_lite.sources.dataset import Dataset

NO_GRADIENT = "the gradient is 0 at"
"""How the flag begins that tells of masked gradients."""
_PROBE = 32
"""Images that are looked at."""


class DeadGradients(NamedTuple):
    """At how many of the images that were looked at the gradient is exactly 0."""

    dead: int
    probed: int


def count_dead_gradients(model: DefendedModel, x: Tensor, y: Tensor) -> DeadGradients:
    """Count images at which the gradient that an adaptive attacker follows is exactly 0.

    It is that of the margin, at a few of the images ``x`` (N, C, H, W) with labels ``y`` (N,).

    Raises:
        ModelError: the model has no gradient by its input.
    """
    device = device_of(model.module)
    x = x[:_PROBE].to(device)
    y = y[:_PROBE].to(device)
    zeros = torch.zeros_like(y)
    points = Points(x, y, zeros - 1, torch.arange(len(y), device=device), zeros)
    try:
        _, gradient = Passes(model, len(y)).gradient(points, margin)
    except ModelError as error:
        reason = told(error.__cause__ or error).rstrip(".")
        raise ModelError(
            f"The model has no gradient by its input: {reason}. Let it compute in torch without "
            "no_grad or detach, give its defense a surrogate, or attack with what needs no "
            "gradient: boundary, zoo, one_pixel."
        ) from error
    dead = (gradient == 0).flatten(1).all(1)  # (N,)
    return DeadGradients(int(dead.sum()), len(y))


def describe_masking(model: DefendedModel, data: Dataset) -> list[str]:
    """Say what a reader must know of a model whose gradients are mostly 0; nothing of any other."""
    dead, probed = count_dead_gradients(model, data.x, data.y)
    if dead * 2 <= probed:
        return []
    return [
        f"{NO_GRADIENT} {dead} of {probed} images that were looked at: masked gradients? Attack by "
        "labels too"
    ]
