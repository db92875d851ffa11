"""The device that is computed on, and how many rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.sources.dataset import Dataset

# Enough rows to keep the kernels busy, few enough images that a batch stays in the caches (CPU) or
# in memory.
_CPU_ROWS = 128
_CPU_VALUES = 2**20
_ACCELERATOR_ROWS = 1024
_ACCELERATOR_VALUES = 2**27


def pick_device(name: str) -> torch.device:
    """Find the device of that name.

    Args:
        name: ``auto`` takes CUDA, then MPS, then the CPU; a backend that a package has registered
            with torch goes by its own name.

    Raises:
        UsageError: this machine has no such device.
    """
    name = _first_there() if str(name) == "auto" else str(name)  # a torch.device too
    family, _, number = name.partition(":")
    count = _counts()
    if family not in count or (number and not number.isdecimal()):
        raise UnknownNameError("device", name, ["auto", *count])
    there = count[family]()
    if not there:
        raise UsageError(
            f"This machine (or this build of torch) has no {family} device: use --device cpu or "
            "auto."
        )
    if number and int(number) >= there:
        devices = f"{there} {family} device{'s' * (there > 1)}: {family}:0"
        last = f" to {family}:{there - 1}" if there > 1 else ""
        raise UsageError(f"There is no {name}; this machine has {devices}{last}.")
    return torch.device(name)


def _first_there() -> str:
    """The fastest family of devices that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _counts() -> dict[str, Callable[[], int]]:
    """Families of devices that this build of torch knows -> how many of each are here."""
    count: dict[str, Callable[[], int]] = {
        "cpu": lambda: 1,
        "cuda": torch.cuda.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
    }
    registered = torch._C._get_privateuse1_backend_name()
    if hasattr(torch, registered):
        count[registered] = getattr(torch, registered).device_count
    return count


def pick_batch_size(asked: int | Literal["auto"], data: Dataset, device: torch.device) -> int:
    """Choose how many rows a call of the model has; no verdict depends on it."""
    if asked != "auto":
        return asked
    cpu = device.type == "cpu"
    rows, values = (_CPU_ROWS, _CPU_VALUES) if cpu else (_ACCELERATOR_ROWS, _ACCELERATOR_VALUES)
    return max(16, min(rows, values // data.x[0].numel()))
