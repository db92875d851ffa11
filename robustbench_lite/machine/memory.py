"""How this process asks the system for memory."""

from __future__ import annotations

import torch


def keep_freed_memory() -> None:
    """Free one large block, so that glibc keeps such blocks for the next step.

    Else it would give them back to the system. It raises its thresholds to the largest block freed
    so far, up to 32 MB. Without, attacks on a CPU spend a tenth of their time on page faults, and
    training up to a third.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
