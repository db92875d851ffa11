"""Answers that are no logits are told from logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.outputs import check_outputs, check_probabilities, doubt
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.model_zoo import network_files
from robustbench_lite.sources.models import named_network


def logits(rows: int = 32, classes: int = 10, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("back", [False, True])
def test_probabilities_are_refused_in_any_precision(
    classes: int, scale: float, dtype: torch.dtype, back: bool
) -> None:
    found = logits(classes=classes, scale=scale).to(dtype).softmax(1)
    found = found.float() if back else found
    with pytest.raises(ModelError, match="probabilities"):
        check_outputs(found, 1, None)
    check_probabilities(found)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z,
        lambda z: z.log_softmax(1),
        lambda z: 2 * z.softmax(1),
        lambda z: z.sigmoid(),
        lambda z: 1.05 * z.softmax(1),
    ],
)
def test_what_is_no_probability_is_refused_where_it_was_said_to_be(
    function: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(ModelError, match="at least 0"):
        check_probabilities(function(logits()))
    check_outputs(function(logits()), 9, 10)


@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
@pytest.mark.parametrize(
    ("classes", "dtype"),
    [(3, torch.float32), (10, torch.float32), (100, torch.float32), (10, torch.float16)],
)
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda p: 100 * p, "sum to "),
        (lambda p: p - 1, "sum to -"),
        (lambda p: 1 - 2 * p, "sum to"),
        (lambda p: 5 * p + 0.5, "sum to"),
    ],
)
def test_scaled_and_shifted_probabilities_are_doubted(
    function: Callable[[Tensor], Tensor], said: str, scale: float, classes: int, dtype: torch.dtype
) -> None:
    found = doubt(function(logits(classes=classes, scale=scale).softmax(1)).to(dtype))
    assert found is not None
    assert said in found or "[0, 1]" in found


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_sigmoids_are_doubted(scale: float, classes: int) -> None:
    assert "[0, 1]" in str(doubt(logits(classes=classes, scale=scale).sigmoid()))


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_logits_raise_no_alarm(classes: int, scale: float, dtype: torch.dtype, seed: int) -> None:
    z = logits(32, classes, scale, seed)
    for ordinary in (
        z,
        z + 3,
        z - 10,
        z - z.mean(1, keepdim=True),
        z.log_softmax(1),
        z.exp().clamp(max=1e4),
        z * 0 + z[:1],
    ):
        assert doubt(ordinary.to(dtype)) is None
        check_outputs(ordinary.to(dtype), 0, None)


@pytest.mark.parametrize("seed", range(10))
def test_networks_that_nobody_trained_raise_no_alarm(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
    assert doubt(network(load_dataset("fashion_mnist", limit=16).x).detach()) is None


@pytest.mark.parametrize(
    "name", [name for name in network_files() if name.startswith("fashion_mnist")]
)
def test_the_bundled_networks_raise_no_alarm(name: str) -> None:
    with torch.no_grad():
        assert doubt(named_network(name).module(load_dataset("fashion_mnist", limit=32).x)) is None
