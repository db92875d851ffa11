"""The rest of a network, behind its windows, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

WRITING = 20
"""To write a value takes as long as so many multiplications. Costs are multiplications, with this.
"""


class RestCost(NamedTuple):
    """What a row of the rest takes."""

    multiplications: int
    """With what it takes to write values."""
    values: int
    """Those of the largest tensor."""


class Rest(fx.Interpreter):
    """What follows, on whole activations.

    These are the network's own modules and functions, in its own order.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)

    def cost(self, inputs: Sequence[Tensor]) -> RestCost:
        """Count what each row of ``inputs`` takes."""
        # The one call that attention becomes without gradients hides its products from the counter.
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with FlopCounterMode(display=False) as counter, _WriteCounter() as written:
                self.run(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        rows = len(inputs[0])
        multiplications = int(counter.get_total_flops()) // 2
        return RestCost(
            (multiplications + WRITING * written.total) // rows, max(1, written.largest // rows)
        )


class _WriteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that operations write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self.total += part.numel()
                self.largest = max(self.largest, part.numel())
        return result
