"""The fast path: a second network for the search, beside the one that is judged.

It is taken only where both have been seen to agree.
What is tried is the same on any machine, so that the same command gives the same numbers: no clock
decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_lite.machine.kernels import works_in_caches
from robustbench_lite.model.copies import frozen_twin
from robustbench_lite.model.defended import DefendedModel, FastPath
from robustbench_lite.model.fast.convolution import speed_up_input_gradients
from robustbench_lite.model.passes import LogitsAndGradient, Passes, Points
from robustbench_lite.rows.losses import Loss

logger = logging.getLogger(__name__)

PROBES = 16
"""Images of the trial: half of them the user's, the others noise.

They are as many as a pass takes without padding.
"""
SAME_LOGITS = 1e-4
"""Largest difference, relative to the largest logit, that passes for rounding."""
SAME_GRADIENT = 1e-3
"""The same for a row's gradient, relative to its length."""
KINKED = 0.05
"""The same for one row of eight, where rounding may switch a ReLU."""
FEWEST = 2
"""Convolutions that make channels last worth it for input gradients."""
DEEP = 3
"""Those that make it worth it for logits, which pay for the layout at both ends."""
CHANNELS_LAST = "channels last"

Modules = tuple[nn.Module, nn.Module | None]


def with_fast_path(model: DefendedModel, x: Tensor) -> DefendedModel:
    """Give ``model`` the first of the known fast paths that answers as it does, if any.

    They are tried on images like ``x`` (N, C, H, W). Compared are logits and input gradients along
    a random direction; where a forward differentiates, its second derivatives are in them. A path
    that raises or differs is not taken.
    """
    modules: Modules = (model.module, model.traits.surrogate)
    if any(
        isinstance(part, torch.jit.ScriptModule)
        for module in modules
        if module is not None
        for part in module.modules()
    ):
        return model
    points = _probes(x)
    try:
        expected = _answers(model, points, fast=False)
    except Exception as error:  # noqa: BLE001 -- whatever a network raises that has no gradient
        logger.debug("No fast path: the network itself fails in the trial (%s).", error)
        return model
    for build in (_channels_last, _frozen):
        try:
            path = build(modules, x.device)
            for writes in (False, True) if path is not None else ():
                faster = replace(model, fast=path._replace(writes=writes))  # type: ignore[union-attr]
                if _agrees(faster, points, expected):
                    return faster
        except Exception as error:  # noqa: BLE001 -- whatever a network raises that needs its own layers or layout
            logger.debug("%s is no path for this network: %s", build.__name__, error)
    return model


def _frozen(modules: Modules, device: torch.device) -> FastPath:
    """Build a path without gradients of parameters.

    On a CPU it has faster input gradients of strided convolutions.
    """
    module, surrogate = frozen_twin(modules)
    parts = nn.ModuleList(part for part in (module, surrogate) if part is not None)
    count = speed_up_input_gradients(parts) if works_in_caches(device) else 0
    faster = f"faster input gradients of {count} strided convolution{'s' * (count > 1)}"
    return FastPath(module, module, surrogate, (faster,) if count else ())


def _channels_last(modules: Modules, device: torch.device) -> FastPath | None:
    """Build a path with convolutions in the layout in which they run up to three times faster.

    None where that gains nothing.
    """
    path = _frozen(modules, device)
    convolutions = _convolutions(path)
    if len(convolutions) < FEWEST or any(_harms(conv, device) for conv in convolutions):
        return None
    for layer in convolutions:
        weight = layer._parameters.get("weight")
        if weight is not None:
            # A clone, since what has one channel counts as laid out either way, and its strides
            # decide for what comes next.
            laid_out = weight.detach().clone(memory_format=torch.channels_last)
            layer._parameters["weight"] = nn.Parameter(laid_out, requires_grad=False)
    if len(convolutions) < DEEP:
        return path._replace(
            module=_frozen(modules, device).module,
            what=(f"gradients with {CHANNELS_LAST}", *path.what),
        )
    return path._replace(what=(CHANNELS_LAST, *path.what))


def _convolutions(path: FastPath) -> list[nn.Conv2d]:
    parts = nn.ModuleList(part for part in (path.gradient, path.surrogate) if part is not None)
    return [part for part in parts.modules() if isinstance(part, nn.Conv2d)]


def _harms(conv: nn.Conv2d, device: torch.device) -> bool:
    """Tell whether ``conv`` with channels last has an unsafe gradient: it skips inputs, on a CPU.

    There torch 2.15 writes beyond its memory.
    """
    skips = any(
        kernel < stride for kernel, stride in zip(conv.kernel_size, conv.stride, strict=True)
    )
    return skips and device.type == "cpu"


def _probes(x: Tensor) -> Points:
    """Lay out images of the user's and noise, as points of class 0."""
    own = x[: PROBES // 2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(PROBES - len(own), *x.shape[1:], generator=generator).to(x)
    zeros = torch.zeros(PROBES, dtype=torch.int64, device=x.device)
    return Points(
        x=torch.cat([own, noise]),
        y=zeros,
        target=zeros - 1,
        sample=torch.arange(PROBES, device=x.device),
        draw=zeros,
    )


def _answers(model: DefendedModel, points: Points, *, fast: bool) -> LogitsAndGradient:
    """Compute logits, and gradients along a random direction of them.

    They are those of the model's stand-in, if it has one, and behind them its own.
    """
    found = []
    for adaptive in (True, False) if model.traits.surrogate is not None else (True,):
        passes = Passes(model, PROBES, adaptive=adaptive, fast=fast)
        logits = passes.logits(points, 1)
        draw = torch.Generator().manual_seed(1)
        direction = torch.randn(len(logits), logits.shape[1], generator=draw).to(logits)
        # Whoever is not adaptive knows of no abstention, the last column.
        gradient = passes.gradient(points, _along(direction)).gradient
        found.append(LogitsAndGradient(logits, gradient))
    return LogitsAndGradient(*(torch.cat(column) for column in zip(*found, strict=True)))


def _along(direction: Tensor) -> Loss:
    """Make the loss that rises along ``direction`` (N, K)."""
    return lambda logits, y, target: (logits * direction[:, : logits.shape[1]]).sum(1)


def _agrees(model: DefendedModel, points: Points, expected: LogitsAndGradient) -> bool:
    """Tell whether the fast path of ``model`` gives the expected answers.

    It also has to leave the images as they are, and to keep the layout it is in.
    """
    path = model.fast
    mine = points._replace(x=points.x.clone())
    if path is None:
        return False
    watched = _convolutions(path) if any(CHANNELS_LAST in part for part in path.what) else []
    try:
        with _LayoutWatch(watched) as watch:
            found = _answers(model, mine, fast=True)
    except RuntimeError:
        if path.writes:
            raise
        # Over an image that gradients are taken by nothing can be written: once more, on copies.
        return False
    allowed = SAME_LOGITS * expected.logits.abs().max().clamp_min(1)
    same = bool(((found.logits - expected.logits).abs() <= allowed).all())
    gap = (found.gradient - expected.gradient).flatten(1).norm(dim=1)
    size = expected.gradient.flatten(1).norm(dim=1)
    kinked = int((gap > SAME_GRADIENT * size).sum())
    same &= bool((gap <= KINKED * size).all()) and kinked * 8 <= len(gap)
    return same and torch.equal(mine.x, points.x) and watch.kept


class _LayoutWatch:
    """Looks at what reaches convolutions.

    But for the first of them, it should have its channels last.
    """

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        self.layers = layers
        self.first = layers[0] if layers else None
        self.kept = True

    def __enter__(self) -> _LayoutWatch:
        self.handles = [layer.register_forward_pre_hook(self._look) for layer in self.layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _look(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer is not self.first:
            self.kept &= inputs[0].is_contiguous(memory_format=torch.channels_last)
