"""Layer norms are upper bounds, and near the truth."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.bounds import lipschitz
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.lipschitz import lipschitz_constant, operator_norm
from robustbench_lite.model.layers import ConvexAggregation
from robustbench_lite.sources.networks import residual


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 4, stride=2, padding=1),
        nn.Conv2d(2, 2, 1, stride=2),
        nn.Conv2d(2, 4, 3, dilation=2, groups=2),
        nn.AvgPool2d(3),
        nn.AvgPool2d(3, stride=1, padding=1),
    ],
)
def test_the_norm_of_a_convolution_is_never_below_and_close_to_that_of_its_matrix(
    conv: nn.Conv2d, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameter in conv.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(lipschitz, "EXACT", 2048 if exact else 0)
    graph = graph_of(nn.Sequential(conv, nn.Flatten()), (2, 12, 12))
    pixels = torch.eye(2 * 12 * 12, dtype=torch.float64).reshape(-1, 2, 12, 12)
    with torch.no_grad():
        matrix = conv.double()(pixels) - conv(torch.zeros_like(pixels))  # a row of it a pixel
    true = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    found = operator_norm(graph.nodes[1], (2, 12, 12))
    assert (
        true
        <= found
        <= true
        * (1 + 1e-6 if exact and not isinstance(conv, nn.AvgPool2d) and conv.groups == 1 else 1.3)
    )


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [(4, 2, 1), (5, 2, 1), (3, 2, 1), (3, 2, 2), (2, 1, 1)]
)
@pytest.mark.parametrize("size", [3, 4, 7])
def test_the_norm_is_never_below_that_of_the_matrix_on_images_as_small_as_the_kernel(
    kernel: int, padding: int, dilation: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lipschitz, "EXACT", 0)
    conv = nn.Conv2d(1, 1, kernel, padding=padding, dilation=dilation, bias=False).requires_grad_(
        False
    )
    generator, pixels = (
        torch.Generator().manual_seed(0),
        torch.eye(size**2, dtype=torch.float64).reshape(-1, 1, size, size),
    )
    for _ in range(30):
        conv.float().weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        graph = graph_of(nn.Sequential(conv, nn.Flatten()), (1, size, size))
        true = float(torch.linalg.matrix_norm(conv.double()(pixels).flatten(1), 2))
        assert true <= operator_norm(graph.nodes[1], (1, size, size))


def test_a_convex_aggregation_is_as_lipschitz_as_its_branches_weighted() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.join = (
                nn.Linear(4, 4, bias=False),
                nn.Linear(4, 4, bias=False),
                ConvexAggregation(2),
            )
            self.one.weight.data, self.two.weight.data = 2 * torch.eye(4), torch.eye(4)
            self.join.coefficients.data = torch.tensor([0.25, 0.75])

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.join(self.one(x), self.two(x))  # type: ignore[no-any-return]

    assert lipschitz_constant(graph_of(Branches().eval(), (1, 2, 2))) == pytest.approx(
        0.25 * 2 + 0.75
    )


@pytest.mark.parametrize("stretched", [0, 1])
def test_the_widest_group_of_a_convolution_decides(stretched: int) -> None:
    conv = nn.Conv2d(2, 2, 1, groups=2, bias=False).requires_grad_(False)
    conv.weight.fill_(1.0)[stretched] *= 3
    graph = graph_of(nn.Sequential(conv, nn.Flatten()), (2, 4, 4))
    assert operator_norm(graph.nodes[1], (2, 4, 4)) == pytest.approx(3)


def test_the_layers_of_a_chain_multiply() -> None:
    chain = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False)
    )
    chain[1].weight.data, chain[3].weight.data = 2 * torch.eye(4), 3 * torch.eye(4)
    assert lipschitz_constant(graph_of(chain.eval(), (1, 2, 2))) == pytest.approx(6)


def test_no_pair_of_images_moves_the_logits_further_than_the_constant_says() -> None:
    generator = torch.Generator().manual_seed(0)
    model = residual(1, 8, 4, width=4).eval().double()
    constant = lipschitz_constant(graph_of(model.float(), (1, 8, 8)))
    x = torch.rand(64, 1, 8, 8, generator=generator)
    step = 0.01 * torch.randn(64, 1, 8, 8, generator=generator)
    moved = (model(x + step) - model(x)).norm(dim=1) / step.flatten(1).norm(dim=1)
    assert 0 < moved.max() <= constant
