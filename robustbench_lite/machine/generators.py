"""The global random generators of the process: kept while others draw from them, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Generators(NamedTuple):
    """The state of the global generators of torch (CPU), NumPy and Python."""

    torch_state: Tensor
    numpy_state: Any
    python_state: Any

    @classmethod
    def current(cls) -> Generators:
        return cls(
            torch.default_generator.get_state(),
            np.random.get_state(legacy=False),
            random.getstate(),
        )

    def install(self) -> None:
        torch.default_generator.set_state(self.torch_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)


def seed_generators(words: tuple[int, int]) -> None:
    """Seed them with 64 bits, in two words; ``torch.manual_seed`` would seed those of the
    accelerators as well.
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
