"""The fast path: a second network for the search, beside the one that is judged, taken only where both have been seen to agree.

What is tried is the same on any machine, so that the same command gives the same numbers: no clock decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_lite.search.convolution import speed_up_input_gradients
from robustbench_lite.search.copies import frozen_twin
from robustbench_lite.search.defended import DefendedModel, FastPath
from robustbench_lite.search.forward import Passes, Points

logger = logging.getLogger(__name__)

PROBES = 8
"""Images of the trial: half of them the user's, half of them noise."""
SAME_LOGITS = 1e-4
"""Largest difference, relative to the largest logit, that passes for rounding."""
SAME_GRADIENT = 1e-3
"""The same for a row's gradient, relative to its length: a ReLU that rounding switches moves it by more than a logit."""
FEWEST_CONVOLUTIONS = 3
"""In a network of fewer, channels last cost as much at its two ends as they gain between."""

CHANNELS_LAST = "channels last"

Modules = tuple[nn.Module, nn.Module | None]


def with_fast_path(model: DefendedModel, x: Tensor) -> DefendedModel:
    """``model`` with the first of the known fast paths that gives what it gives on images like ``x`` (N, C, H, W), if any.

    Compared are logits and input gradients of a random direction; where a forward differentiates, its second derivatives are in
    them. A path that raises or differs is not taken.
    """
    modules: Modules = (model.module, model.traits.surrogate)
    if any(isinstance(part, torch.jit.ScriptModule) for module in modules if module is not None for part in module.modules()):
        return model
    device = x.device
    points = _probes(x)
    try:
        expected = _answers(Passes(model, len(points.x)), points)
    except Exception as error:  # noqa: BLE001 -- whatever a network raises that has no gradient
        logger.debug("No fast path: the network itself fails in the trial (%s).", error)
        return model
    for build in (_channels_last, _frozen):
        try:
            path = build(modules, device)
            faster = None if path is None else replace(model, fast=path)
            if faster is not None and _agrees(faster, points, expected) and _pays(faster, points):
                return faster
        except Exception as error:  # noqa: BLE001 -- whatever a network raises that needs its own layers or layout
            logger.debug("%s is no path for this network: %s", build.__name__, error)
    return model


def _frozen(modules: Modules, device: torch.device) -> FastPath:
    """Without gradients of parameters; on a CPU with faster input gradients of strided convolutions."""
    module, surrogate = frozen_twin(modules)
    parts = nn.ModuleList(part for part in (module, surrogate) if part is not None)
    count = speed_up_input_gradients(parts) if device.type == "cpu" else 0
    what = () if not count else (f"faster input gradients of {count} strided convolution{'s' * (count > 1)}",)
    return FastPath(module, surrogate, what)


def _channels_last(modules: Modules, device: torch.device) -> FastPath | None:
    """With convolutions in the layout in which they run up to three times faster; None where that gains nothing."""
    path = _frozen(modules, device)
    convolutions = _convolutions(path)
    # torch 2.15, on a CPU, writes beyond its memory in the gradient of a convolution in this layout that skips inputs.
    if len(convolutions) < FEWEST_CONVOLUTIONS or (device.type == "cpu" and any(map(_skips, convolutions))):
        return None
    for layer in convolutions:
        weight = layer._parameters.get("weight")
        if weight is not None:
            laid_out = weight.detach().contiguous(memory_format=torch.channels_last)
            layer._parameters["weight"] = nn.Parameter(laid_out, requires_grad=False)
    return path._replace(what=(CHANNELS_LAST, *path.what))


def _convolutions(path: FastPath) -> list[nn.Conv2d]:
    parts = (path.module, path.surrogate)
    found = {id(part): part for one in parts if one is not None for part in one.modules() if isinstance(part, nn.Conv2d)}
    return list(found.values())


def _skips(conv: nn.Conv2d) -> bool:
    """There are inputs between its windows that it never sees."""
    return any(kernel < stride for kernel, stride in zip(conv.kernel_size, conv.stride, strict=True))


def _probes(x: Tensor) -> Points:
    """Images of the user's and noise, as points of class 0."""
    noise = torch.rand(PROBES // 2, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    probes = torch.cat([x[: PROBES // 2], noise])
    zeros = torch.zeros(len(probes), dtype=torch.int64, device=x.device)
    return Points(probes, zeros, zeros - 1, torch.arange(len(probes), device=x.device), zeros)


def _answers(passes: Passes, points: Points) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and gradients (N, C, H, W) of a random direction of them."""
    logits = passes.logits(points, 1)
    draw = torch.Generator().manual_seed(1)
    direction = torch.randn(len(logits), logits.shape[1], generator=draw).to(logits)
    _, gradient = passes.gradient(points, _along(direction))
    return logits, gradient


def _along(direction: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    # The last logits may belong to padding, which has no direction.
    return lambda logits, y, target: (logits[: len(direction)] * direction).sum(1)


def _agrees(model: DefendedModel, points: Points, expected: tuple[Tensor, Tensor]) -> bool:
    logits, gradient = _answers(Passes(model, len(points.x), fast=True), points)
    gap, size = (gradient - expected[1]).flatten(1).norm(dim=1), expected[1].flatten(1).norm(dim=1)
    same = bool(((logits - expected[0]).abs() <= SAME_LOGITS * expected[0].abs().max().clamp_min(1)).all())
    return same and bool((gap <= SAME_GRADIENT * size).all())


def _pays(model: DefendedModel, points: Points) -> bool:
    """Another layout gains only where the network keeps it from one convolution to the next."""
    return model.fast is None or CHANNELS_LAST not in model.fast.what or _keeps_layout(model, _convolutions(model.fast), points)


def _keeps_layout(model: DefendedModel, layers: Sequence[nn.Conv2d], points: Points) -> bool:
    """What reaches ``layers``, but for the first of them, has its channels last: nothing between turns it back."""
    kept: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        Passes(model, len(points.x), fast=True).logits(points, 1)
    finally:
        for handle in handles:
            handle.remove()
    return all(kept[1:])
