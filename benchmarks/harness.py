"""What all contestants of ``attacks.py`` share: their signature, their images, and the count."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.fast.path import PROBES, with_fast_path
from robustbench_lite.rows.losses import margin
from robustbench_lite.sources.load_data import load_dataset

Runner = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the perturbed images.

A row that no adversarial was found for may come back as it is.
"""


class Images(NamedTuple):
    """Images with their labels."""

    x: Tensor
    y: Tensor


class Subject(NamedTuple):
    """A network, and images that it classifies correctly."""

    model: nn.Module
    x: Tensor
    y: Tensor


class Counter(nn.Module):
    """Counts the rows that pass through a model, forth and back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0
        self.back = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count_back)  # type: ignore[no-untyped-call]
        return logits

    def _count_back(self, gradient: Tensor) -> None:
        self.back += len(gradient)


@torch.no_grad()
def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Say which rows the model gives another class than theirs, (N,) bool."""
    parts = zip(x_adv.split(256), y.split(256), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat([margin(model(a), b, torch.full_like(b, -1)) < 0 for a, b in parts])


def in_batches(run: Runner, size: int) -> Runner:
    """Work through a data set as other toolkits do.

    One batch goes after the other, each from the first step to the last.
    """

    def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat(
            [run(model, x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]
        )

    return whole


def as_evaluated(model: nn.Module, x: Tensor) -> DefendedModel:
    """Make the copy that evaluate() works on, with its fast path; a counter is left as it is."""
    if isinstance(model, Counter):
        return DefendedModel(model)
    return with_fast_path(prepare(model, registry.create("defense", "none"), x.device), x[:PROBES])


def training_images(model: nn.Module, options: argparse.Namespace) -> Images:
    """Load those of the training images that the model classifies correctly."""
    data = load_dataset(options.dataset, split="train", data_dir=options.data_dir)
    x = data.x.to(options.device)
    y = data.y.to(options.device)
    keep = ~broken(model, x, y)
    return Images(x[keep], y[keep])
