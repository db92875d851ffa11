"""How whoever waits for a search hears how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

OnStep = Callable[[float], None]
"""Hears how many rows' worth of work is done."""


class Announcer:
    """Tells ``on_step``, if there is one, a few times a second."""

    SECONDS = 0.25

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step = on_step
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Somebody listens, and it is time again."""
        return self.on_step is not None and time.monotonic() - self.last > self.SECONDS

    def announce(self, done: float) -> None:
        """Announce how many rows' worth of work is done."""
        self.last = time.monotonic()
        if self.on_step is not None:
            self.on_step(done)
