"""Parseval: layers stay orthonormal, sums convex, verdicts free of the logit scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rbl_defenses.parseval import Parseval, parseval_layers, retract
from robustbench_lite.errors import UsageError
from robustbench_lite.model.layers import ConvexAggregation
from robustbench_lite.registry import create
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.model_zoo import network_files
from robustbench_lite.sources.models import named_network
from robustbench_lite.sources.networks import residual
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.training.trainer import Recipe, initialise, seeded, train
from tests.conftest import toy


def _spread(model: nn.Module, defense: Parseval | None = None) -> tuple[float, float]:
    """The smallest and the largest singular value over all layers, as shares of the target."""
    defense = defense or Parseval()
    values = torch.cat(
        [torch.linalg.svdvals(defense.frame(layer)) for layer in parseval_layers(model)]
    )
    return float(values.min()), float(values.max())


def _small() -> nn.Module:
    return initialise(lambda: residual(channels=1, size=8, classes=3, width=4), 0)


def _data() -> Dataset:
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    y = (x.mean((1, 2, 3)) * 30).long() % 3
    return toy(x, y, 3)


def test_a_prepared_network_is_orthonormal() -> None:
    model = _small()
    assert _spread(model)[1] > 1.5
    with seeded("test"):
        Parseval().prepare(model)
    assert _spread(model) == pytest.approx((1, 1), abs=1e-4)


def test_a_convolution_carries_the_patch_scaling_in_its_weights() -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 4, 3))
    with seeded("test"):
        Parseval().prepare(model)
    assert torch.linalg.svdvals(model[0].weight.detach().flatten(1)).tolist() == pytest.approx(
        [1 / 3] * 4, abs=1e-5
    )


def test_without_patch_scaling_noise_keeps_its_length_in_a_convolution_and_shrinks_with_it() -> (
    None
):
    x = torch.randn(64, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    gains = []
    for scaled in (True, False):
        model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False))
        with seeded("test"):
            Parseval(scaled_patches=scaled).prepare(model)
        gains.append(float(model(x).detach().norm() / x.norm()))
    assert gains == pytest.approx([1 / 3, 1], rel=0.05)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_retraction_moves_each_singular_value_by_the_formula(
    shape: tuple[int, int], beta: float
) -> None:
    matrix = 0.4 * torch.randn(
        shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    before = torch.linalg.svdvals(matrix)
    expected = (before + beta * before * (1 - before**2)).sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(retract(matrix, beta)), expected)


def test_training_keeps_layers_orthonormal_and_sums_convex(tmp_path: Path) -> None:
    model = _small()
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.01)
    train(model, Parseval(), _data(), recipe, checkpoint=tmp_path / "c.pt")
    low, high = _spread(model)
    assert 0.9 < low <= high < 1.1
    for module in model.modules():
        if isinstance(module, ConvexAggregation):
            assert float(module.coefficients.detach().sum()) == pytest.approx(1)
            assert float(module.coefficients.detach().min()) >= 0


def test_random_rows_are_drawn_alike_in_every_run(tmp_path: Path) -> None:
    hashes = []
    for run in range(2):
        model = _small()
        train(
            model,
            Parseval(rows=0.5),
            _data(),
            Recipe(epochs=1, batch_size=16),
            checkpoint=tmp_path / f"{run}.pt",
        )
        hashes.append(weights_hash(model))
    assert hashes[0] == hashes[1]


def test_a_share_of_the_rows_leaves_the_others_alone() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 4))
    before = model[0].weight.detach().clone()
    with seeded("test"):
        Parseval(rows=0.5).after_step(model)
    assert int((model[0].weight.detach() != before).any(1).sum()) == 2


@pytest.mark.parametrize("name", [name for name in network_files() if "-parseval" in name])
def test_a_bundled_network_is_orthonormal_in_every_layer(name: str) -> None:
    network = named_network(name)
    assert network.card is not None
    defense = create("defense", network.card.defense)
    assert isinstance(defense, Parseval)
    low, high = _spread(network.module, defense)
    assert 0.9 <= low <= high <= 1.1


@pytest.mark.parametrize("text", ["beta=0", "beta=0.6", "rows=0", "rows=1.5", "logit_scale=-1"])
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="parseval needs"):
        create("defense", f"parseval {text}")
