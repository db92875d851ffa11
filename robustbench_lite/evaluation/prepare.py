"""Prepare a network to be measured: a copy behind its defense, on its device, in eval mode."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.modes import (
    in_train_mode,
    require_eval_mode,
    require_separate_rows,
)
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.machine.memory import keep_freed_memory
from robustbench_lite.model.copies import own_copy
from robustbench_lite.model.defended import DefendedModel, Wrapper
from robustbench_lite.rows.rng import SampleRng


class LogProbabilities(nn.Module):
    """Turns a network that returns probabilities into one that returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.model(x)
        if torch.finfo(probabilities.dtype).bits < 32:
            probabilities = probabilities.float()  # logarithms of coarse numbers are not coarse
        # Below the smallest normal float a probability carries no gradient worth following.
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class WithGradients(Wrapper):
    """A network that differentiates inside of its forward, with gradients enabled for that.

    The network itself leaves it to the caller to have them enabled.
    """

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            logits = self.inner(x, rng)
        return logits if wanted else logits.detach()


def prepare(
    model: nn.Module, defense: Defense, device: torch.device, outputs: Outputs = "logits"
) -> DefendedModel:
    """Put a copy of ``model`` behind ``defense`` on ``device``, in eval mode.

    The user's own object is left as it is.

    Args:
        outputs: what ``model`` returns; probabilities are turned into logits.

    Raises:
        ModelError: it is no module, or is in train mode where that changes its answers.
    """
    owned = copy_in_eval_mode(model)
    said = require_eval_mode(model)
    defended = defense.wrap(LogProbabilities(owned) if outputs == "probabilities" else owned)
    traits = defended.traits
    if traits.surrogate is not None:
        traits = replace(traits, surrogate=_place(traits.surrogate, device))
    if device.type == "cpu":
        keep_freed_memory()
    remarks = () if said is None else (said,)
    return DefendedModel(_place(defended.module, device), traits, remarks=remarks)


def copy_in_eval_mode(model: nn.Module) -> nn.Module:
    """Copy ``model``, and put the copy into eval mode.

    Raises:
        ModelError: it is no module, would answer otherwise in eval mode than it does now, or does
            not answer each image for itself.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The model is a {type(model).__name__}; wrap it in an nn.Module that maps images to "
            "logits."
        )
    require_eval_mode(model)
    require_separate_rows(model)
    return _switch_to_eval(own_copy(model))


def _place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move ``module`` itself to ``device``, and what a defense has added into eval mode."""
    return _switch_to_eval(module.to(device))


def _switch_to_eval(module: nn.Module) -> nn.Module:
    """Put into eval mode what is not there yet."""
    for part in module.modules():
        if in_train_mode(part):
            part.train(False)
    return module
