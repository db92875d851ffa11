"""Small models and images that many tests share. Nothing here touches the global generators."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before torch is imported: as many processes as cores leave each of them one thread
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

T = TypeVar("T")

settings.register_profile("whole", deadline=None)  # no test is about time
settings.load_profile("whole")


def images(n: int, shape: tuple[int, int, int] = (1, 6, 6), seed: int = 0) -> Tensor:
    """(n, C, H, W) float32 in [0, 1]."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def small_network(
    shape: tuple[int, int, int] = (1, 6, 6), classes: int = 3, seed: int = 0
) -> nn.Sequential:
    """A convolution and a linear layer with fixed random weights, in eval mode; it gives ``images``
    all classes alike.
    """
    channels, height, width = shape
    last = nn.Linear(4 * height * width, classes)
    network = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), last)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        # A network that says one class of nearly everything would not show labels, rows or keys
        # that are mixed up.
        logits = network(images(256, shape, seed=99))
        spread = logits.std(0)
        last.weight.mul_((spread.mean() / spread).unsqueeze(1))
        last.bias.sub_(logits.mean(0)).mul_(spread.mean() / spread)
    return network.eval()


def present(value: T | None) -> T:
    """``value``, which must be there."""
    assert value is not None
    return value


def judged(
    attack: Attack, model: nn.Module, task: Task, threat: ThreatModel, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Which rows of ``task`` are broken before the judge, (N,), and the distances that the search
    claims.
    """
    passes = Passes(DefendedModel(model), batch_size)
    judge = Judge(passes, threat, attack.name, "cpu")
    hits, size = (
        torch.zeros(len(task.y), dtype=torch.bool),
        torch.full((len(task.y),), float("inf")),
    )
    for rows in Engine(attack, passes, threat).search(task):
        at = rows.position[rows.claimed]
        claims = rows.x_adv[rows.claimed]
        hits[at] = judge.confirm(
            claims, task.x[at], task.y[at], task.target[at], task.index[at]
        ).confirmed
        size[rows.position] = rows.size
    return hits, size


def joined(outcomes: Iterable[SearchOutcome]) -> SearchOutcome:
    """All rows of a search as one outcome, in the order of its task."""
    whole, *rest = outcomes
    for part in rest:
        whole = whole.append(part)
    return whole.select(whole.position.argsort())


def untargeted(x: Tensor, y: Tensor, first: int = 0) -> Task:
    """Any other class than ``y`` will do; the images are numbered from ``first``."""
    return Task(x, y, torch.full_like(y, -1), torch.arange(len(y)) + first)


def points_of(x: Tensor, y: Tensor, first: int = 0, draw: int = 0) -> Points:
    """Points to ask a model about, of the images of ``untargeted``, with the same draw for all."""
    return Points(
        x, y, torch.full_like(y, -1), torch.arange(len(y)) + first, torch.full_like(y, draw)
    )


def toy(x: Tensor, y: Tensor, classes: int, split: str = "train") -> Dataset:
    """A data set of these images."""
    return Dataset("toy", split, x, y, torch.arange(len(y)), classes, len(y))


@pytest.fixture
def network() -> nn.Module:
    return small_network()


@pytest.fixture
def batch(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Sixty images that the network of the same test classifies correctly, with their labels."""
    x = images(60)
    return x, network(x).argmax(1)
