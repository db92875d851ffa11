"""Is this network fit to be measured? Wrong setups are caught before they turn into numbers."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_lite.defense import Defense
from robustbench_lite.errors import ModelError
from robustbench_lite.memory import keep_freed_memory
from robustbench_lite.search.convolution import speed_up_input_gradients
from robustbench_lite.search.defended import DefendedModel, takes_rng
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.losses import margin
from robustbench_lite.search.rng import SampleRng

logger = logging.getLogger(__name__)
Outputs = Literal["logits", "probabilities"]

_PROBE = 32
"""Samples that the checks run on."""
_COUPLING = 1e-4
"""Largest difference, relative to the largest logit, that a row may show between batches."""
_RANDOM_DRAWS, _RANDOM_VOTES = 8, 9
"""For a network that turns out to be random: forwards that a gradient is averaged over, and votes on a verdict."""


class LogProbabilities(nn.Module):
    """Turns a network that returns probabilities into one that returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        # Below the smallest normal float a probability carries no gradient worth following.
        probabilities: Tensor = self.model(x)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def prepare(model: nn.Module, defense: Defense, device: torch.device, outputs: Outputs = "logits") -> DefendedModel:
    """A frozen copy of ``model`` behind ``defense`` on ``device``; the user's own object is left as it is."""
    owned = copied(model)
    defended = defense.wrap(LogProbabilities(owned) if outputs == "probabilities" else owned)
    surrogate = defended.traits.surrogate
    traits = replace(defended.traits, surrogate=None if surrogate is None else _frozen(surrogate, device))
    if device.type == "cpu":
        keep_freed_memory()
    return DefendedModel(_frozen(defended.module, device), traits)


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model``, which must be a module in eval mode."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"The model is a {type(model).__name__}; wrap it in an nn.Module that maps images to logits.")
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"The model is in train mode ({', '.join(training[:3])}): dropout and batch statistics would make verdicts "
            "random. Call model.eval() first."
        )
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"The model cannot be copied ({error}): detach tensors that it keeps.") from error


def _frozen(module: nn.Module, device: torch.device) -> nn.Module:
    """``module``, in place, as attacks use it: on ``device``, without gradients of parameters, and in the quickest layout."""
    module = module.to(device).eval().requires_grad_(False)
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    # Convolutions with their input gradient run up to a third faster in this layout; results are the same. But torch 2.15, on
    # a CPU, writes beyond its memory in the gradient of one in this layout whose kernel is shorter than its stride.
    if convolutions and not (device.type == "cpu" and any(map(_skips, convolutions))):
        module = module.to(memory_format=torch.channels_last)
    return speed_up_input_gradients(module) if device.type == "cpu" else module


def _skips(conv: nn.Conv2d) -> bool:
    """There are inputs between its windows that it never sees."""
    return any(kernel < stride for kernel, stride in zip(conv.kernel_size, conv.stride, strict=True))


def diagnose(model: DefendedModel, x: Tensor, y: Tensor, classes: int | None = None) -> DefendedModel:
    """Check ``model`` on a few images ``x`` (N, C, H, W) with labels ``y`` (N,); mark it random if it is.

    Raises:
        ModelError: it fails on these images; returns the wrong shape, too few classes, NaN, or probabilities; or lets a row
            depend on its batch. Each message says what to do.
    """
    module = model.module
    device = _device_of(module)
    x = x[:_PROBE].to(device)
    every = torch.arange(len(x), device=device)
    for part in module.modules():
        if isinstance(part, LogProbabilities):
            _check_probabilities(part.model(x))

    def forward(rows: Tensor) -> Tensor:
        return _forward(module, x[rows], rows)[..., : -1 if model.traits.abstains else None]

    logits = forward(every)
    _check_output(logits, int(y.max()), classes)
    if model.traits.random and not takes_rng(module):
        return model
    again = forward(every)
    scale = max(1.0, float(logits.abs().max()))
    if float((logits - again).abs().max()) > _COUPLING * scale:
        logger.warning("The model is random: gradients over %d draws, verdicts by %d votes.", _RANDOM_DRAWS, _RANDOM_VOTES)
        return DefendedModel(module, replace(model.traits, random=True, draws=_RANDOM_DRAWS, votes=_RANDOM_VOTES))
    alone = torch.cat([forward(row) for row in torch.split(every[:4], 1)])
    order = torch.cat([every[::2], every[1::2]])
    halves = torch.cat([forward(half) for half in (every[::2], every[1::2]) if len(half)])
    gap = max(float((alone - logits[:4]).abs().max()), float((halves - logits[order]).abs().max()))
    if gap > _COUPLING * scale:
        raise ModelError(
            f"The logits of an image change by {gap:.3g} with the batch it is in: a layer mixes rows (batch statistics, say). "
            "Robustness of single images is undefined for such a model; use running statistics (model.eval())."
        )
    return model


def dead_gradients(model: DefendedModel, x: Tensor, y: Tensor) -> tuple[int, int]:
    """At how many of a few images, of how many, the gradient of the margin that an adaptive attacker follows is exactly 0.

    Raises:
        ModelError: the model has no gradient by its input.
    """
    device = _device_of(model.module)
    x, y = x[:_PROBE].to(device), y[:_PROBE].to(device)
    zeros = torch.zeros_like(y)
    points = Points(x, y, zeros - 1, torch.arange(len(y), device=device), zeros)
    try:
        _, gradient = Passes(model, len(y)).gradient(points, margin)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"The model has no gradient by its input ({reason}). Let it compute in torch without no_grad or detach, give its "
            "defense a surrogate, or attack with what needs no gradient: boundary, zoo, one_pixel."
        ) from error
    return int((gradient == 0).flatten(1).all(1).sum()), len(y)


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _forward(module: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """Logits (N, K) of the images ``x`` (N, C, H, W), which are the samples ``rows`` (N,) for a model that draws a sample."""
    drawn = (SampleRng.create(0, "diagnosis", rows, torch.zeros_like(rows)),) if takes_rng(module) else ()
    try:
        logits = module(x, *drawn)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The model fails on images of shape {tuple(x.shape)}, {x.dtype}: {reason}") from error
    if not isinstance(logits, Tensor):
        raise ModelError(f"The model returns a {type(logits).__name__}; a tensor of logits (B, K) is needed.")
    return logits


def _check_probabilities(found: Tensor) -> None:
    sums = found.double().sum(1) if isinstance(found, Tensor) and found.dim() == 2 else torch.zeros(1)
    if bool((sums - 1).abs().max() > 1e-3) or bool((found < 0).any()):
        raise ModelError(
            "The model was said to return probabilities, and its rows are not at least 0 with a sum of 1: leave out "
            "outputs='probabilities' (--outputs) if it returns logits."
        )


def _check_output(logits: Tensor, highest_label: int, classes: int | None) -> None:
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ModelError(f"The model returns {tuple(logits.shape)}, {logits.dtype}; float logits (B, K), K >= 2, are needed.")
    found = logits.shape[1]
    if found <= highest_label or (classes is not None and found != classes):
        needed = classes if classes is not None else f"at least {highest_label + 1}"
        raise ModelError(f"The model has {found} classes, the data needs {needed}: is it the network for this data set?")
    if not bool(logits.isfinite().all()):
        raise ModelError("The model returns NaN or inf on clean images: check its weights and normalisation.")
    sums = logits.double().sum(1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise ModelError(
            "The model returns probabilities, whose gradients vanish and make it look robust. Return logits (no softmax), "
            "or pass outputs='probabilities' (--outputs probabilities) to have their logarithm used."
        )
