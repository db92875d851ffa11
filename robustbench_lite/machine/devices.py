"""Devices: what they are called, what lies on them, and whether they hold float64."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor, nn


def backend_of(device: torch.device) -> Any:
    """Give ``torch.cuda`` and the like; None for a CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def name_of(device: torch.device) -> str:
    """Name the kind of a device, and the card that it is.

    Returns:
        ``cpu``, or such as ``cuda: NVIDIA H100 80GB HBM3``.
    """
    named = getattr(backend_of(device), "get_device_name", None)
    return f"{device.type}: {named(device)}" if callable(named) else device.type


def device_of(module: nn.Module) -> torch.device:
    """Find where the parameters of ``module`` lie, or else its buffers; the CPU if it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@functools.cache
def has_float64(kind: str) -> bool:
    """Tell whether devices of type ``kind`` can hold float64; MPS cannot."""
    try:
        torch.zeros((), device=kind).double()
    except (TypeError, RuntimeError):
        return False
    return True


def in_float64(tensor: Tensor) -> Tensor:
    """Convert to float64: where ``tensor`` lies, or on the CPU where there is no float64."""
    return (tensor if has_float64(tensor.device.type) else tensor.cpu()).double()


def proving_device(device: torch.device) -> torch.device:
    """Choose where to bound a network that is searched on ``device``.

    It is bounded there, or on the CPU where there is no float64.
    """
    return device if has_float64(device.type) else torch.device("cpu")
