"""Searches that take turns, each in a thread of its own.

It waits whenever it asks the model, so that questions can be packed. Only one thread runs at a
time, and the global random generators are that search's own as long as it does.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from torch import Tensor

from robustbench_lite.machine.generators import Generators


class Stopped(Exception):
    """The search is over: its budget is spent, or it found what it was to find."""


class Request(NamedTuple):
    """What a search asks: logits, or the gradient of a weighted sum of them."""

    x: Tensor
    """Points, (M, C, H, W), on the CPU."""
    draw: int
    """Number of the first draw of a random model.

    A gradient is taken on the draw whose logits the search saw.
    """
    weights: Tensor | None = None
    """Those of the sum, (M, K); None asks for logits."""


class Lane:
    """One search: ``advance`` lets it run until it asks or is over.

    Then ``request`` is what it asks, or None.
    """

    def __init__(self, search: Callable[[], None]) -> None:
        self.request: Request | None = None
        self.stopped = False
        self._search = search
        self._generators = Generators.current()
        self._requests: SimpleQueue[Request | BaseException | None] = SimpleQueue()
        self._replies: SimpleQueue[Tensor | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    def advance(self, reply: Tensor | None = None) -> None:
        """Hand over the ``reply`` to the last request and wait for the next.

        Raises:
            BaseException: what the search raised.
        """
        self._generators.install()
        self._replies.put(reply)
        try:
            said = self._requests.get()
        except BaseException:  # an interrupt: the search must not run on behind the caller's back
            self.close()
            raise
        self._generators = Generators.current()
        if isinstance(said, BaseException):
            raise said
        self.request = said

    def ask(self, request: Request) -> Tensor:
        """Wait for the answer: the search calls this.

        Raises:
            Stopped: there are no more, now and later.
        """
        if self.stopped:
            raise Stopped
        self._requests.put(request)
        reply = self._replies.get()
        if self.stopped or reply is None:
            raise Stopped
        return reply

    def close(self) -> None:
        """End the search where it is, and its thread."""
        self.stopped = True
        self.request = None
        self._replies.put(None)
        self._thread.join()

    def _run(self) -> None:
        said: BaseException | None = None
        self._replies.get()
        try:
            if not self.stopped:
                self._search()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 -- raised again where the search is waited for
            said = error
        self._requests.put(said)
