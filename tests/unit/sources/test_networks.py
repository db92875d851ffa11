"""The built-in networks and their parts."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite.errors import UsageError
from robustbench_lite.model.layers import ConvexAggregation, Normalize
from robustbench_lite.sources.networks import NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 2), (1, 9, 3)])
def test_every_network_maps_images_to_logits(
    name: str, channels: int, size: int, classes: int
) -> None:
    network = NETWORKS[name](channels=channels, size=size, classes=classes)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_does_not_depend_on_its_batch_even_in_train_mode(name: str) -> None:
    network = NETWORKS[name]().train()
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x)[:1], network(x[:1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="size=2"):
        NETWORKS[name](size=2)


def test_normalisation_is_per_channel() -> None:
    normalize = Normalize([0.0, 0.5], [1.0, 0.25])
    assert normalize(torch.full((1, 2, 1, 1), 0.75)).flatten().tolist() == [0.75, 1.0]


def test_an_aggregation_starts_as_the_mean() -> None:
    joined = ConvexAggregation(2)(torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3))
    assert torch.equal(joined, torch.full((1, 1, 2, 3), 0.5))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.3, 0.7], [0.3, 0.7]),
        ([1.0, 1.0], [0.5, 0.5]),
        ([2.0, -1.0], [1.0, 0.0]),
        ([0.0, 0.0, 0.6], [0.4 / 3, 0.4 / 3, 2.2 / 3]),
    ],
)
def test_projection_finds_the_nearest_point_of_the_simplex(
    before: list[float], after: list[float]
) -> None:
    aggregation = ConvexAggregation(len(before))
    with torch.no_grad():
        aggregation.coefficients.copy_(torch.tensor(before))
    aggregation.project()
    assert aggregation.coefficients.tolist() == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize(
    "given", [{"channels": 10**9}, {"size": 10**9}, {"classes": 10**9}, {"width": 10**9}]
)
def test_what_a_card_may_say_of_a_network_is_bounded(given: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="A network needs"):
        NETWORKS["residual"](**given)
