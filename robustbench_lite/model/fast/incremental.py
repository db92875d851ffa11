"""Logits of images that differ from a known one in a single pixel.

They cost what that pixel reaches. Attacks by scores ask for hundreds of such neighbours of one
image: ZOO moves one value a question, a one-pixel attack exchanges one pixel. In the first layers
of a network, where almost all of the work lies, the change stays in a small window, and only the
window's difference from the known image is carried through (``windows.rules``). The differences are
sums of fewer terms than the whole pass, so finite differences of the logits lose less to rounding.
What the windows cannot follow any more is run whole on the activations that they have led to
(``neighbours.graph``).
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.machine.generators import kept_generators
from robustbench_lite.model.copies import frozen_twin
from robustbench_lite.model.fast.neighbours.graph import program_of
from robustbench_lite.model.fast.neighbours.program import Program

logger = logging.getLogger(__name__)

LEAST_GAIN = 1.25
"""A network whose neighbours cost more than a whole pass divided by this is not worth the sorting.

The estimate is rough: networks between this and 1.8 took from as long as whole passes down to a
third of the time, and none took longer.
"""
_SAME = 1e-4
"""Largest difference between a neighbour's logits and those of a whole pass.

It is relative to the largest logit.
"""
_SAME_CHANGE = 0.02
"""The same relative to the largest change that a neighbour shows, where that is above rounding."""
_ROUNDING = 1e-5
"""That of the logits, relative to the largest."""
_PROBES = 3
"""Images that the network is tried on."""
_NEIGHBOURS = 48
"""Neighbours of all of them."""


class Attempt(NamedTuple):
    """What came of looking for the short way through a network: the way, or why there is none."""

    incremental: Incremental | None
    reason: str | None


class Incremental:
    """A network as a map of changes."""

    def __init__(self, program: Program) -> None:
        self.gain = program.gain
        """What a whole pass costs for one of a neighbour."""
        self._program = program

    @classmethod
    def of(cls, module: nn.Module, shape: tuple[int, ...]) -> Incremental | None:
        """Make it for images of ``shape`` (C, H, W).

        None where windows cannot follow the network, or gain too little, on a CPU.
        """
        return attempt(module, shape).incremental

    @torch.no_grad()
    def logits(self, base: Tensor, owner: Tensor, place: Tensor, pixel: Tensor) -> Tensor:
        """Compute the logits of neighbours.

        Args:
            base: images, (B, C, H, W).
            owner: whose neighbour each is, (N,) int64.
            place: where it differs, row times width plus column, (N,) int64.
            pixel: what it has there, (N, C).

        Returns:
            (N, K).
        """
        return self._program.logits(base, owner, place, pixel)


def why_not(module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Say why neighbours of images of ``shape`` get whole passes from ``module``.

    None where they do not.
    """
    return attempt(module, shape).reason


@torch.no_grad()
def attempt(module: nn.Module, shape: tuple[int, ...]) -> Attempt:
    """Look for the short way through ``module``, and try it.

    Neither it nor the global generators are left changed.
    """
    with kept_generators():
        try:
            twin = frozen_twin(module)
            built = program_of(twin, shape)
            incremental = Incremental(built.program)
            because = f": {built.reasons[0]}" if built.reasons else ""
            if incremental.gain <= max(1.0, LEAST_GAIN):
                return _refuse(f"windows gain too little (x{incremental.gain:.1f}){because}")
            gap = _largest_gap(incremental, twin, shape)
        except Exception as error:  # noqa: BLE001 -- the network's own code may raise anything; whole passes show it
            because = (str(error) or type(error).__name__).splitlines()[0]
            return _refuse(f"its forward cannot be followed ({because})")
    if not gap <= 1:
        return _refuse("windows lead to other logits than whole passes")
    return Attempt(Incremental(built.program.on(module)), None)


def _refuse(reason: str) -> Attempt:
    logger.debug("Neighbours get whole passes: %s.", reason)
    return Attempt(None, reason)


def _largest_gap(incremental: Incremental, module: nn.Module, shape: tuple[int, ...]) -> float:
    """Measure between logits of neighbours and of whole passes, relative to what is allowed."""
    generator = torch.Generator().manual_seed(0)
    weights = (tensor for tensor in module.parameters() if tensor.is_floating_point())
    like = next(weights, torch.zeros(()))
    base = torch.rand(_PROBES, *shape, generator=generator).to(like)
    owner = torch.arange(_NEIGHBOURS) % _PROBES
    place = torch.randint(shape[1] * shape[2], (_NEIGHBOURS,), generator=generator)
    corners = torch.tensor([0, shape[2] - 1, (shape[1] - 1) * shape[2], shape[1] * shape[2] - 1])
    place[: len(corners)] = corners
    pixel = torch.rand(_NEIGHBOURS, shape[0], generator=generator).to(like)
    whole = base[owner].flatten(2)
    whole[torch.arange(_NEIGHBOURS), :, place] = pixel
    expected = module(whole.reshape(-1, *shape).clone())
    found = incremental.logits(base.clone(), owner, place, pixel)
    if found.shape != expected.shape or found.dim() != 2:
        return float("inf")
    largest = expected.abs().max()
    change = (expected - module(base.clone())[owner]).abs().max()
    beyond_rounding = torch.maximum(_SAME_CHANGE * change, _ROUNDING * largest)
    allowed = torch.minimum(_SAME * largest, beyond_rounding)
    gap = (found - expected).abs().max()
    return float(gap / allowed.clamp_min(torch.finfo(allowed.dtype).tiny))
