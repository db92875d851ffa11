"""What a certificate promises whatever the network: independence of the batch, order of methods,
clear refusals.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds import hidden, margins
from robustbench_lite.bounds.certify import certify
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.hidden import CHORDS, Bounding, hidden_bounds
from robustbench_lite.bounds.margins import NEAR
from robustbench_lite.bounds.region import region_of
from robustbench_lite.errors import ModelError, UnknownNameError, UnsupportedLayerError, UsageError
from robustbench_lite.model.layers import Normalize
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import reference_model
from robustbench_lite.sources.networks import residual
from robustbench_lite.threat import NORMS
from tests.conftest import present

METHODS = ["ibp", "crown-ibp", "dual", "crown", "alpha", "auto"]


def randomised(model: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """The adversarially trained bundled network, with 64 images and labels."""
    data = load_dataset("fashion_mnist", limit=64)
    return reference_model("fashion_mnist", "adversarial_training").module, data.x, data.y


@pytest.fixture(scope="module")
def small_residual() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(
        Normalize([0.4], [0.3]), randomised(residual(1, 8, 3, width=4), 0.25)
    ).eval()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("method", METHODS)
def test_no_bound_depends_on_the_batch(
    trained: tuple[nn.Module, Tensor, Tensor], method: str
) -> None:
    model, x, y = trained
    x, y = x[:24], y[:24]
    whole, sevens = (
        certify(model, x, y, eps=0.1, method=method, batch_size=size) for size in (24, 7)
    )
    ones = certify(model, x[:4], y[:4], eps=0.1, method=method, batch_size=1)
    assert torch.equal(whole.certified, sevens.certified)
    assert torch.allclose(whole.margins, sevens.margins, rtol=1e-5, atol=2e-5)
    assert torch.allclose(whole.margins[:4], ones.margins, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("case", ["trained", "small_residual"])
def test_alpha_is_never_below_its_start_and_auto_never_below_a_stage_where_nothing_was_proved(
    case: str, norm: str, box: bool, request: pytest.FixtureRequest
) -> None:
    model, x, y = request.getfixturevalue(case)
    x, y, eps = x[:8], y[:8], {"linf": 0.05, "l2": 0.4}[norm]
    found = {m: certify(model, x, y, norm=norm, eps=eps, method=m, box=box) for m in METHODS}
    for start in ("dual", "crown"):
        assert (found["alpha"].margins >= found[start].margins - 1e-5).all()
    unproved = ~found["auto"].certified & (model(x).argmax(1) == y)
    for method in METHODS[:-1]:
        assert (found["auto"].margins[unproved] >= found[method].margins[unproved] - 1e-5).all()
        assert (found["auto"].certified | ~found[method].certified).all()


def test_the_image_box_only_raises_a_margin_and_the_result_names_its_stage(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = trained
    cut, plain = (certify(model, x, y, eps=0.05, method="crown", box=box) for box in (True, False))
    assert (cut.margins >= plain.margins - 1e-5).all()
    assert (cut.margins > plain.margins + 1e-3).any()
    assert set(cut.stage) == {"crown"}
    assert set(certify(model, x, y, eps=0.05, method="auto").stage) <= set(METHODS)


def test_every_sample_may_have_its_own_eps(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    eps = torch.linspace(0, 0.2, 8)
    mixed = certify(model, x[:8], y[:8], eps=eps, method="dual").margins
    alone = [
        certify(model, x[i : i + 1], y[i : i + 1], eps=float(eps[i]), method="dual").margins.item()
        for i in range(8)
    ]
    assert mixed.tolist() == pytest.approx(alone, abs=1e-4)
    clean = model(x[:1])[0]
    assert mixed[0].item() == pytest.approx(
        (clean[y[0]] - clean.masked_fill(F.one_hot(y[0], 10).bool(), -1e9).max()).item(), abs=1e-4
    )


def test_float32_is_far_more_exact_than_what_is_decided_again_in_float64(
    trained: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = trained
    size = model(x).abs().amax(1)
    monkeypatch.setattr(margins, "NEAR", 0.0)
    single = certify(model, x, y, eps=0.1, method="dual").margins
    monkeypatch.setattr(margins, "NEAR", float("inf"))
    double = certify(model, x, y, eps=0.1, method="dual").margins
    assert not torch.equal(single, double)
    assert ((single - double).abs() < NEAR / 30 * size).all()


def test_memory_is_bounded_by_the_chunk_and_no_bound_depends_on_it(
    small_residual: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, _ = small_residual
    graph = graph_of(model, (1, 8, 8))
    region = region_of(x[:3].double(), NORMS["linf"], torch.full((3,), 0.02))
    large, small = (
        hidden_bounds(Bounding(graph, region, chunk), CHORDS) for chunk in (2**22, 2**9)
    )
    for node, bounds in large.items():
        assert torch.allclose(bounds.lower, small[node].lower, atol=1e-12)
        assert torch.allclose(bounds.upper, small[node].upper, atol=1e-12)


class UserNetwork(nn.Module):
    """Functional calls, views, a shared input, arithmetic: as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(1, 4, 1, stride=2, bias=False)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        x = F.relu(self.norm(self.conv(x)) + self.side(x) * 0.5)
        x = torch.relu(x - 0.1)
        x = F.adaptive_avg_pool2d(x, 1)
        return (1 - self.out(x.view(x.size(0), -1))) / 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["none", "adversarial_training"])
def test_rows_for_all_units_of_a_convolution_give_the_bounds_of_rows_for_the_open_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, network = (
        load_dataset("fashion_mnist", limit=16).x,
        reference_model("fashion_mnist", name).module,
    )
    problem = Bounding(
        graph_of(network, tuple(x.shape[1:])),
        region_of(x.double(), NORMS["linf"], torch.full((16,), 0.1)),
    )
    bounds = []
    for share in (0.0, 2.0):  # all samples, and none
        monkeypatch.setattr(hidden, "WHOLE", share)
        bounds.append(hidden_bounds(problem, CHORDS))
    every, open_only = bounds
    for node in every:
        lower, upper = open_only[node]
        crosses = (lower < 0) & (upper > 0)
        assert torch.equal(crosses, (every[node].lower < 0) & (every[node].upper > 0))
        assert torch.allclose(every[node].lower[crosses], lower[crosses], atol=1e-12)
        assert torch.allclose(every[node].upper[crosses], upper[crosses], atol=1e-12)


def test_a_network_in_functional_style_is_followed() -> None:
    model: Any = randomised(UserNetwork())
    with torch.no_grad():
        model.norm.running_mean.fill_(0.3)
        model.norm.running_var.fill_(2.0)
    x = torch.rand(5, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    graph = graph_of(model, (1, 9, 7))
    assert torch.allclose(graph.forward(x), model(x).double(), atol=1e-5)
    assert "norm" not in {node.name for node in graph.nodes}  # folded into the convolution
    y = model(x).argmax(1)
    assert certify(model, x, y, eps=0.0, method="dual").certified.all()


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.Sigmoid(), "Sigmoid"),
        (nn.LeakyReLU(-0.5), "slope -0.5"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
    ],
)
def test_a_layer_without_a_bound_is_named(layer: nn.Module, named: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 1, 8, 8))
    with pytest.raises(UnsupportedLayerError, match=rf"layer '1'.*{named}"):
        certify(model, torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), eps=0.1)


def test_a_network_whose_hooks_change_it_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    model[1].register_forward_hook(lambda layer, args, out: out * 2)
    with pytest.raises(ModelError, match="something else"):
        certify(model, torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), eps=0.1)


def test_wrong_questions_are_refused_with_what_is_allowed(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = trained
    with pytest.raises(UnknownNameError, match="Did you mean 'crown'"):
        certify(model, x, y, eps=0.1, method="crwon")
    with pytest.raises(UsageError, match="l1"):
        certify(model, x, y, norm="l1", eps=0.1)
    with pytest.raises(UsageError, match="norm='l2'"):
        certify(model, x, y, eps=0.1, method="lipschitz")
    with pytest.raises(UsageError, match="at least 0"):
        certify(model, x, y, eps=-0.1)


def test_a_misclassified_sample_is_never_certified(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, _ = trained
    wrong = (model(x).argmax(1) + 1) % 10
    for method in METHODS:
        assert not certify(model, x[:8], wrong[:8], eps=0.01, method=method).certified.any()
    found = certify(model, x[:8], wrong[:8], norm="l2", eps=0.0, method="lipschitz")
    assert not found.certified.any()
    assert present(found.radius).tolist() == [0.0] * 8


@pytest.mark.parametrize("method", [*METHODS, "lipschitz"])
def test_a_lead_that_the_float32_network_may_not_show_is_not_certified(method: str) -> None:
    # Around 4096 float32 goes in steps of 2^-12 and more: what leads by 2^-14 is a tie to the
    # network.
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval().requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[2.0**-14, 0, 0, 0], [0, 0, 0, 0]]))
    model[1].bias.fill_(4096.0)
    x, y = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 2, 2), torch.tensor([0])
    assert model(x)[0, 0] == model(x)[0, 1]
    assert not certify(model, x, y, norm="l2", eps=0.0, method=method).certified.any()
    model[1].weight.mul_(2.0**8)
    assert certify(model, x, y, norm="l2", eps=0.0, method=method).certified.all()
