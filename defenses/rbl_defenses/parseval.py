"""Parseval networks.

Cisse et al. 2017, "Parseval networks: improving robustness to adversarial examples",
arXiv:1704.08847.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.defense import DefendedModel, Defense, TrainingBatch
from robustbench_lite.errors import UsageError
from robustbench_lite.model.layers import ConvexAggregation
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Parseval(Defense):
    """Keep every layer an (approximate) Parseval tight frame, so that none stretches a
    perturbation.

    A linear layer keeps its matrix orthonormal. A convolution keeps sqrt(kh kw) times its flattened
    kernel orthonormal: the paper scales the patches by 1 / sqrt(kh kw) (section 4.2), and here that
    factor is part of the weights. Sums of branches stay convex (section 4.3). Certificates compute
    the constants that a trained network really has.

    Args:
        beta: strength of the retraction W <- (1 + beta) W - beta W W^T W (equation 10). 0.5 makes
            it a Newton-Schulz step towards the nearest orthonormal matrix. The paper's 3e-4 goes
            with small steps of SGD: Adam moves the singular values by more than that a step, and
            they would drift off.
        rows: share of the rows, drawn anew after every step, that is retracted (section 4.2); 1
            takes all.
        logit_scale: what multiplies the logits in the training loss. Orthonormal layers give
            margins well below 1, which the cross-entropy cannot fit. The deployed network
            multiplies by it too: no verdict changes, and an attack by the cross-entropy sees the
            probabilities that the network was trained to give.
        scaled_patches: scale as the paper does. Without, flattened kernels themselves stay
            orthonormal: an average signal keeps its length and the worst may grow by sqrt(kh kw).
            For deep networks without normalisation (the paper's have batch norm), in which 3x3
            kernels that are scaled shrink it to a third, layer after layer.
    """

    name: ClassVar[str] = "parseval"
    trains: ClassVar[bool] = True
    paper: ClassVar[str] = "Cisse et al. 2017, arXiv:1704.08847"

    beta: float = 0.5
    rows: float = 1.0
    logit_scale: float = 200.0
    scaled_patches: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 0.5:
            raise UsageError(
                f"parseval needs beta in (0, 0.5], not {self.beta}: above 0.5 the retraction "
                "overshoots."
            )
        if not 0 < self.rows <= 1:
            raise UsageError(f"parseval needs rows (a share) in (0, 1], not {self.rows}.")
        if not self.logit_scale > 0:
            raise UsageError(f"parseval needs a logit_scale above 0, not {self.logit_scale}.")

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        for layer in parseval_layers(model):
            matrix = self.frame(layer)
            self.store_frame(layer, nn.init.orthogonal_(torch.empty_like(matrix)))

    def wrap(self, model: nn.Module) -> DefendedModel:
        return DefendedModel(ScaledLogits(model, self.logit_scale))

    def certifier(self, threat: ThreatModel) -> Certifier | None:
        """Prove by the Lipschitz constant, which is small here: it costs one forward pass."""
        return BoundCertifier(method="lipschitz") if threat.norm.name == "l2" else None

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        loss: Tensor = F.cross_entropy(self.logit_scale * model(batch.x), batch.y)
        return loss

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, ConvexAggregation):
                module.project()
        for layer in parseval_layers(model):
            matrix = self.frame(layer)
            if self.rows < 1:
                # The trainer seeds the global generator anew for every step, so a resumed run draws
                # the same.
                count = max(1, round(self.rows * len(matrix)))
                chosen = torch.randperm(len(matrix))[:count].to(matrix.device)
                matrix[chosen] = retract(matrix[chosen], self.beta)
            else:
                matrix = retract(matrix, self.beta)
            self.store_frame(layer, matrix)

    def frame(self, layer: nn.Conv2d | nn.Linear) -> Tensor:
        """Copy what the retraction keeps orthonormal.

        Returns:
            (out, in), for a convolution (out, in kh kw).
        """
        return layer.weight.detach().flatten(1) * self._scale(layer)  # (out, in kh kw)

    def store_frame(self, layer: nn.Conv2d | nn.Linear, matrix: Tensor) -> None:
        """Write a matrix shaped as ``frame(layer)`` back to the layer's weights."""
        layer.weight.copy_((matrix / self._scale(layer)).reshape(layer.weight.shape))

    def _scale(self, layer: nn.Conv2d | nn.Linear) -> float:
        """Give the factor by which a frame is larger than the weights."""
        if self.scaled_patches and isinstance(layer, nn.Conv2d):
            return math.sqrt(math.prod(layer.kernel_size))
        return 1.0


class ScaledLogits(nn.Module):
    """A network with its logits times a constant."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model = model
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits * self.scale


def parseval_layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """The layers that are kept orthonormal."""
    return (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def retract(matrix: Tensor, beta: float) -> Tensor:
    """One retraction step (equation 10) of the rows, or of the columns where they are fewer."""
    if len(matrix) > matrix.shape[1]:
        return retract(matrix.T, beta).T
    return (1 + beta) * matrix - beta * (matrix @ matrix.T) @ matrix
