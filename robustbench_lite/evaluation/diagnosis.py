"""Is this network fit to be measured? Wrong setups are caught before they turn into numbers."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError, RobustBenchError, told
from robustbench_lite.evaluation.outputs import check_outputs, check_probabilities, doubt
from robustbench_lite.evaluation.prepare import LogProbabilities, WithGradients
from robustbench_lite.machine.devices import device_of
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.defended import DefendedModel, takes_rng
from robustbench_lite.rows.rng import SampleRng

logger = logging.getLogger(__name__)

_PROBE = 32
"""Samples that the checks run on."""
_FEWEST = 4
"""Images that show whether a layer mixes rows: to fewer, noise is added."""
_COUPLING = 1e-4
"""Largest difference, as a share of the largest logit, that a row may show between batches."""
_ROUNDINGS = 20
"""A batch of another size rounds in every layer, an image changed in its last bits but once."""
_RANDOM_DRAWS = 8
_RANDOM_VOTES = 9
"""Of a network that turns out to be random: forwards a gradient, and votes on a verdict."""


@exactly
def diagnose(
    model: DefendedModel, x: Tensor, y: Tensor, classes: int | None = None
) -> DefendedModel:
    """Check ``model`` on a few images ``x`` (N, C, H, W) with labels ``y`` (N,).

    Returns:
        The model, marked random if it is, and with remarks on what a reader must know of it.

    Raises:
        ModelError: it fails on these images; returns the wrong shape, too few classes, NaN, or
            probabilities; or lets a row depend on its batch. Each message says what to do.
    """
    x = x[:_PROBE].to(device_of(model.module))
    model = _with_gradients(model, x)
    probe = _Probe(model.module, _enough(model.module, x), model.traits.abstains)
    for part in model.module.modules():
        if isinstance(part, LogProbabilities):
            check_probabilities(_output(part.model, probe.x))
    logits = probe.logits(probe.every)
    check_outputs(logits[: len(x)], int(y.max()), classes)
    model = _with_remark(model, doubt(logits))
    if model.traits.random and not takes_rng(model.module):
        return model
    again = probe.logits(probe.every)
    most = _COUPLING * max(1.0, float(logits.abs().max()))
    if float((logits - again).abs().max()) > most:
        return _as_random(model)
    gap = _gap(probe, logits)
    if gap > most:
        return _with_remark(model, _explain_gap(probe, logits, gap))
    return model


@dataclass(frozen=True)
class _Probe:
    """The images that a network is checked on, and how it is asked about them."""

    module: nn.Module
    x: Tensor  # (N, C, H, W)
    abstains: bool

    @property
    def every(self) -> Tensor:
        return torch.arange(len(self.x), device=self.x.device)  # (N,)

    def logits(self, rows: Tensor) -> Tensor:
        """The logits (M, K) of the images at ``rows`` (M,), asked as one batch."""
        return _forward(self.module, self.x[rows], rows)[..., : -1 if self.abstains else None]


def _with_remark(model: DefendedModel, remark: str | None) -> DefendedModel:
    return model if remark is None else replace(model, remarks=(*model.remarks, remark))


def _as_random(model: DefendedModel) -> DefendedModel:
    """``model``, found to be random by its answers, with the draws that it takes to know it."""
    logger.warning(
        "The model is random: gradients over %d draws, verdicts by %d votes.",
        _RANDOM_DRAWS,
        _RANDOM_VOTES,
    )
    traits = replace(model.traits, random=True, draws=_RANDOM_DRAWS, votes=_RANDOM_VOTES)
    return replace(model, traits=traits)


def _gap(probe: _Probe, logits: Tensor) -> float:
    """The largest difference that a logit of one batch shows in batches of other sizes."""
    alone = torch.cat([probe.logits(row) for row in torch.split(probe.every[:4], 1)])
    halves = (probe.every[::2], probe.every[1::2])
    parts = torch.cat([probe.logits(half) for half in halves if len(half)])
    return max(
        float((alone - logits[:4]).abs().max()),
        float((parts - logits[torch.cat(halves)]).abs().max()),
    )


def _explain_gap(probe: _Probe, logits: Tensor, gap: float) -> str:
    """Say that rounding makes the logits depend on their batch, if that is what does it.

    Raises:
        ModelError: a layer mixes rows.
    """
    rounding = _rounding(probe, logits)
    if gap <= _ROUNDINGS * rounding:
        return (
            "ill-conditioned: a change of its images in the last bit moves the network's "
            f"logits by {rounding:.2g}, and their batch by {gap:.2g}: verdicts with a smaller "
            "margin may differ between machines"
        )
    raise ModelError(
        f"The logits of an image change by {gap:.3g} with the batch it is in: a layer mixes "
        "rows (batch statistics, say). Robustness of single images is undefined for such a "
        "model; use running statistics (model.eval())."
    )


def _enough(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` (N, C, H, W); after fewer images than show anything, some of noise.

    Noise is left out where the network has no answer for it.
    """
    if len(x) >= _FEWEST:
        return x
    noise = torch.rand(_FEWEST, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    more = torch.cat([x, noise])
    try:
        answers = _forward(module, more, torch.arange(len(more), device=x.device))
    except ModelError:
        return x
    return more if answers.dim() == 2 and bool(answers.isfinite().all()) else x


def _rounding(probe: _Probe, logits: Tensor) -> float:
    """By how much ``logits`` (N, K) move when each pixel changes by at most its last bit."""
    nudged = torch.nextafter(probe.x, torch.full_like(probe.x, 0.5))
    found = replace(probe, x=nudged).logits(probe.every)
    return float((found - logits).abs().max())


def _with_gradients(model: DefendedModel, x: Tensor) -> DefendedModel:
    """``model``, with gradients enabled inside where it works in no other way."""
    rows = torch.arange(len(x), device=x.device)
    try:
        _forward(model.module, x, rows)
    except ModelError:
        enabled = WithGradients(model.module).eval()
        try:
            _forward(enabled, x, rows)
        except ModelError:
            return model  # the first error is the one to tell
        surrogate = model.traits.surrogate
        if surrogate is not None:
            surrogate = WithGradients(surrogate).eval()
        return replace(model, module=enabled, traits=replace(model.traits, surrogate=surrogate))
    return model


def _forward(module: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """The logits (N, K) of images ``x`` (N, C, H, W).

    For a model that draws they are the samples ``rows`` (N,).
    """
    if takes_rng(module):
        rng = SampleRng.create(0, "diagnosis", rows, torch.zeros_like(rows))
        logits = _output(module, x, rng)
    else:
        logits = _output(module, x)
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
        f"wrap it in a module whose forward returns net(x.to(torch.{kind})).float()."
    )
