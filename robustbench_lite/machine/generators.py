"""The global random generators of the process: kept while others draw from them, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.machine.devices import backend_of


class Generators(NamedTuple):
    """The state of the global generators of torch (CPU), NumPy and Python."""

    torch_state: Tensor
    numpy_state: Any
    python_state: Any

    @classmethod
    def current(cls) -> Generators:
        """Read their state."""
        return cls(
            torch.default_generator.get_state(),
            np.random.get_state(legacy=False),
            random.getstate(),
        )

    def install(self) -> None:
        """Put them into this state."""
        torch.default_generator.set_state(self.torch_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)


def seed_generators(words: tuple[int, int]) -> None:
    """Seed them with 64 bits, in two words.

    ``torch.manual_seed`` would seed those of the accelerators as well.
    """
    torch.default_generator.manual_seed(words[0] << 32 | words[1])
    np.random.seed(words)
    random.seed(words[0] << 32 | words[1])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global generators back as they were, whatever happens inside."""
    before = Generators.current()
    try:
        yield
    finally:
        before.install()


@contextmanager
def own_generators(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Let torch's global generators of the CPU and of ``device`` follow from ``seed`` inside.

    Afterwards they are put back. Those of other devices are not touched.
    """
    device = torch.device(device)
    backend = backend_of(device)
    kept = torch.get_rng_state()
    there = None if backend is None else _state(backend, device)
    try:
        torch.default_generator.manual_seed(seed)
        if backend is not None and there is not None:
            _seed(backend, device, seed)
        yield
    finally:
        torch.set_rng_state(kept)
        if backend is not None and there is not None:
            backend.set_rng_state(there, *_place(device))


def _place(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is but one


def _state(backend: Any, device: torch.device) -> Tensor | None:
    if not hasattr(backend, "get_rng_state"):
        return None
    return backend.get_rng_state(*_place(device))  # type: ignore[no-any-return]


def _seed(backend: Any, device: torch.device, seed: int) -> None:
    if device.type == "mps":
        backend.manual_seed(seed)
        return
    with getattr(backend, "device", nullcontext)(device):
        backend.manual_seed(seed)
