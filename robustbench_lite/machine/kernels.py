"""Which of two ways to the same numbers is the quicker one on a device."""

from __future__ import annotations

import torch


def works_in_caches(device: torch.device) -> bool:
    """Whether small pieces of work, which stay in caches, are quicker than few large ones.

    They are on a CPU. An accelerator wants large pieces: what starts each of them costs more than
    the work in it.
    """
    return device.type == "cpu"
