"""Is this network fit to be measured? Wrong setups are caught before they turn into numbers."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import ModelError, RobustBenchError, told
from robustbench_lite.evaluation.modes import (
    in_train_mode,
    require_eval_mode,
    require_separate_rows,
)
from robustbench_lite.evaluation.outputs import Outputs as Outputs
from robustbench_lite.evaluation.outputs import check_outputs, check_probabilities, doubt
from robustbench_lite.machine.devices import device_of
from robustbench_lite.machine.memory import keep_freed_memory
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.copies import own_copy
from robustbench_lite.model.defended import DefendedModel, Wrapper, takes_rng
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin
from robustbench_lite.rows.rng import SampleRng

logger = logging.getLogger(__name__)

_PROBE = 32
"""Samples that the checks run on."""
_FEWEST = 4
"""Images that show whether a layer mixes rows: to fewer, noise is added."""
_COUPLING = 1e-4
"""Largest difference, relative to the largest logit, that a row may show between batches."""
_ROUNDINGS = 20
"""A batch of another size rounds in every layer; a change of the image in its last bits stands for
one rounding.
"""
_RANDOM_DRAWS = 8
_RANDOM_VOTES = 9
"""For a network that turns out to be random: forwards that a gradient is averaged over, and votes
on a verdict.
"""


class LogProbabilities(nn.Module):
    """Turns a network that returns probabilities into one that returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        # Below the smallest normal float a probability carries no gradient worth following.
        probabilities: Tensor = self.model(x)
        if (
            torch.finfo(probabilities.dtype).bits < 32
        ):  # the logarithms of coarse numbers are not coarse
            probabilities = probabilities.float()
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class WithGradients(Wrapper):
    """A network that differentiates inside of its forward and leaves it to the caller to have
    gradients enabled.
    """

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            logits = self.inner(x, rng)
        return logits if wanted else logits.detach()


def prepare(
    model: nn.Module, defense: Defense, device: torch.device, outputs: Outputs = "logits"
) -> DefendedModel:
    """A copy of ``model`` behind ``defense`` on ``device``, as it was given; the user's own object
    is left as it is.
    """
    owned = copied(model)
    said = require_eval_mode(model)
    defended = defense.wrap(LogProbabilities(owned) if outputs == "probabilities" else owned)
    surrogate = defended.traits.surrogate
    traits = replace(
        defended.traits, surrogate=None if surrogate is None else _placed(surrogate, device)
    )
    if device.type == "cpu":
        keep_freed_memory()
    return DefendedModel(
        _placed(defended.module, device), traits, remarks=() if said is None else (said,)
    )


def copied(model: nn.Module) -> nn.Module:
    """A copy, in eval mode, of ``model``: a module that answers as it does in eval mode, and each
    image for itself.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The model is a {type(model).__name__}; wrap it in an nn.Module that maps images to "
            "logits."
        )
    require_eval_mode(model)
    require_separate_rows(model)
    return _in_eval_mode(own_copy(model))


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    """``module``, in place, on ``device`` and in eval mode, where the user's part of it is
    already.
    """
    return _in_eval_mode(module.to(device))


def _in_eval_mode(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if in_train_mode(part):
            part.train(False)
    return module


@exactly
def diagnose(
    model: DefendedModel, x: Tensor, y: Tensor, classes: int | None = None
) -> DefendedModel:
    """Check ``model`` on a few images ``x`` (N, C, H, W) with labels ``y`` (N,); mark it random if
    it is.

    Raises:
        ModelError: it fails on these images; returns the wrong shape, too few classes, NaN, or
        probabilities; or lets a row
            depend on its batch. Each message says what to do.
    """
    device = device_of(model.module)
    x = x[:_PROBE].to(device)
    every = torch.arange(len(x), device=device)
    model = _with_gradients(model, x, every)
    module = model.module
    given = len(x)
    if given < _FEWEST:
        x = _among_noise(module, x)
        every = torch.arange(len(x), device=device)
    for part in module.modules():
        if isinstance(part, LogProbabilities):
            check_probabilities(_output(part.model, x))

    def forward(rows: Tensor) -> Tensor:
        return _forward(module, x[rows], rows)[..., : -1 if model.traits.abstains else None]

    logits = forward(every)
    check_outputs(logits[:given], int(y.max()), classes)
    doubtful = doubt(logits)
    if doubtful is not None:
        model = replace(model, remarks=(*model.remarks, doubtful))
    if model.traits.random and not takes_rng(module):
        return model
    again = forward(every)
    scale = max(1.0, float(logits.abs().max()))
    if float((logits - again).abs().max()) > _COUPLING * scale:
        logger.warning(
            "The model is random: gradients over %d draws, verdicts by %d votes.",
            _RANDOM_DRAWS,
            _RANDOM_VOTES,
        )
        return replace(
            model,
            traits=replace(model.traits, random=True, draws=_RANDOM_DRAWS, votes=_RANDOM_VOTES),
        )
    alone = torch.cat([forward(row) for row in torch.split(every[:4], 1)])
    order = torch.cat([every[::2], every[1::2]])
    halves = torch.cat([forward(half) for half in (every[::2], every[1::2]) if len(half)])
    gap = max(float((alone - logits[:4]).abs().max()), float((halves - logits[order]).abs().max()))
    if gap > _COUPLING * scale:
        rounding = _rounding(module, x, every, logits)
        if gap <= _ROUNDINGS * rounding:
            remark = (
                "ill-conditioned: a change of its images in the last bit moves the network's "
                f"logits by {rounding:.2g}, and "
                f"their batch by {gap:.2g}: verdicts with a smaller margin may differ between "
                "machines"
            )
            return replace(model, remarks=(*model.remarks, remark))
        raise ModelError(
            f"The logits of an image change by {gap:.3g} with the batch it is in: a layer mixes "
            "rows (batch statistics, say). "
            "Robustness of single images is undefined for such a model; use running statistics "
            "(model.eval())."
        )
    return model


def dead_gradients(model: DefendedModel, x: Tensor, y: Tensor) -> tuple[int, int]:
    """At how many of a few images, of how many, the gradient of the margin that an adaptive
    attacker follows is exactly 0.

    Raises:
        ModelError: the model has no gradient by its input.
    """
    device = device_of(model.module)
    x = x[:_PROBE].to(device)
    y = y[:_PROBE].to(device)
    zeros = torch.zeros_like(y)
    points = Points(x, y, zeros - 1, torch.arange(len(y), device=device), zeros)
    try:
        _, gradient = Passes(model, len(y)).gradient(points, margin)
    except ModelError as error:
        reason = told(error.__cause__ or error).rstrip(".")
        raise ModelError(
            f"The model has no gradient by its input: {reason}. Let it compute in torch without "
            "no_grad or detach, give its "
            "defense a surrogate, or attack with what needs no gradient: boundary, zoo, one_pixel."
        ) from error
    return int((gradient == 0).flatten(1).all(1).sum()), len(y)


def _among_noise(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` (N, C, H, W) with images of noise after it, where the network has an answer for them:
    more rows show more.
    """
    noise = torch.rand(_FEWEST, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    more = torch.cat([x, noise])
    try:
        answers = _forward(module, more, torch.arange(len(more), device=x.device))
    except ModelError:
        return x
    return more if answers.dim() == 2 and bool(answers.isfinite().all()) else x


def _rounding(module: nn.Module, x: Tensor, rows: Tensor, logits: Tensor) -> float:
    """By how much the logits (N, K) of ``x`` move when each value of it changes by at most its last
    bit.
    """
    nudged = torch.nextafter(x, torch.full_like(x, 0.5))
    found = _forward(module, nudged, rows)[..., : logits.shape[1]]
    return float((found - logits).abs().max())


def _with_gradients(model: DefendedModel, x: Tensor, rows: Tensor) -> DefendedModel:
    """``model``, with gradients enabled inside where it works in no other way."""
    try:
        _forward(model.module, x, rows)
    except ModelError:
        enabled = WithGradients(model.module).eval()
        surrogate = model.traits.surrogate
        try:
            _forward(enabled, x, rows)
        except ModelError:
            return model  # the first error is the one to tell
        traits = replace(
            model.traits, surrogate=None if surrogate is None else WithGradients(surrogate).eval()
        )
        return replace(model, module=enabled, traits=traits)
    return model


def _forward(module: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """Logits (N, K) of the images ``x`` (N, C, H, W), which are the samples ``rows`` (N,) for a
    model that draws a sample.
    """
    drawn = (
        (SampleRng.create(0, "diagnosis", rows, torch.zeros_like(rows)),)
        if takes_rng(module)
        else ()
    )
    logits = _output(module, x, *drawn)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"The model returns a {type(logits).__name__}; a tensor of logits (B, K) is needed."
        )
    return logits


@torch.no_grad()
def _output(module: nn.Module, x: Tensor, *drawn: SampleRng) -> Any:
    """What ``module`` gives for a copy of ``x``."""
    try:
        found = module(x.clone(), *drawn)
        return found.detach() if isinstance(found, Tensor) else found
    except RobustBenchError:
        raise
    except Exception as error:  # a network raises whatever it likes
        raise ModelError(
            f"The model fails on images of shape {tuple(x.shape)}, {x.dtype}: {told(error)} "
            f"{_advice(module, x)}"
        ) from error


def _advice(module: nn.Module, x: Tensor) -> str:
    """What to do about a network that fails on the images ``x``."""
    kinds = {
        tensor.dtype
        for tensor in itertools.chain(module.parameters(), module.buffers())
        if tensor.is_floating_point()
    }
    if len(kinds) != 1 or x.dtype in kinds:
        return "Is it for images of this size and number of channels?"
    kind = str(*kinds).removeprefix("torch.")
    return (
        f"Its parameters are {kind}, images come as float32: make it float32 (model.float()), or "
        "wrap it in a module whose "
        f"forward returns net(x.to(torch.{kind})).float()."
    )
