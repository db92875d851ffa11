"""Bounds against closed forms, numbers worked out by hand, and a literal implementation of the
published dual.
"""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.bounds.certify import certify
from tests.conftest import present
from tests.known_answer.dual_oracle import dual_margins

METHODS = ["ibp", "crown-ibp", "dual", "crown", "alpha", "auto"]


def randomised(model: nn.Sequential, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator)
                * (0.4 if parameter.dim() > 1 else 0.2)
            )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                present(module.running_mean).normal_(generator=generator)
                present(module.running_var).uniform_(0.5, 2, generator=generator)
    return model.eval()


NETWORKS = {
    "paper": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    ),
    "leaky, batch norm, pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, 2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 4),
    ),
    "windows as wide as the image": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 1, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 4),
    ),
}


@pytest.mark.parametrize("eps", [0.01, 0.1])
@pytest.mark.parametrize(("norm", "box"), [("linf", False), ("linf", True), ("l2", False)])
@pytest.mark.parametrize("name", NETWORKS)
def test_dual_margins_are_those_of_the_published_method(
    name: str, norm: str, box: bool, eps: float
) -> None:
    model = randomised(NETWORKS[name](), seed=1)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(1)
    found = certify(model, x, y, norm=norm, eps=eps, method="dual", box=box).margins
    expected = dual_margins(copy.deepcopy(model), x, y, eps, norm, box)
    assert torch.allclose(found, expected, atol=1e-5)


def two_layers() -> Any:
    """z = (a + b, a - b) with a, b in [0, 1] around (1/2, 1/2); logits (h1 + h2, 2 h2 - 1/2)."""
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[1].bias.zero_()
        model[3].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        model[3].bias.copy_(torch.tensor([0.0, -0.5]))
    return model


@pytest.mark.parametrize(
    ("method", "margin"),
    [
        # The margin is h1 - h2 + 1/2, h1 = z1 in [1/2, 3/2], h2 = max(z2, 0) with z2 in [-1/2,
        # 1/2], at eps 1/4.
        ("ibp", 0.5 - 0.5 + 0.5),
        # h2 <= z2 / 2 + 1/4: z1 - z2 / 2 + 1/4 = a / 2 + 3 b / 2 + 1/4, least at a = b = 1/4.
        ("dual", 0.75),
        ("crown", 0.75),
        ("crown-ibp", 0.75),
        ("alpha", 0.75),
        ("auto", 0.5),
    ],
)
def test_two_layer_bounds_are_those_worked_out_by_hand(method: str, margin: float) -> None:
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    found = certify(two_layers(), x, y, eps=0.25, method=method)
    assert found.margins.item() == pytest.approx(margin, abs=1e-5)
    assert found.certified.all()


@pytest.mark.parametrize("method", ["crown-ibp", "dual", "crown", "alpha"])
def test_what_is_not_proved_has_the_bound_worked_out_by_hand_too(method: str) -> None:
    """The same margin less 1: no slope below a unit can mend the chord above h2, so the optimised
    bound is the same.
    """
    model = two_layers()
    with torch.no_grad():
        model[3].bias[0] -= 1
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    found = certify(model, x, y, eps=0.25, method=method)
    assert found.margins.item() == pytest.approx(0.75 - 1, abs=1e-5)
    assert not found.certified.any()


def test_slopes_matter_below_a_unit_and_optimised_ones_are_best() -> None:
    # The margin of class 1 is -(h1 - h2 + 1/2) = max(z2, 0) - z1 - 1/2 with z1 = a + b, z2 = a - b,
    # at eps 1/4. Equal slopes: z2 / 2 - z1 - 1/2 = -a / 2 - 3 b / 2 - 1/2 >= -2. Slope 0 below: -z1
    # - 1/2 >= -2, 1: -2 b - 1/2 >= -2.
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1])
    for method, margin in [("dual", -2.0), ("crown", -2.0), ("alpha", -2.0)]:
        assert certify(two_layers(), x, y, eps=0.25, method=method).margins.item() == pytest.approx(
            margin, abs=1e-5
        )
    # Further from 0 the slopes differ: with x = (0.6, 0.4) z2 lies in [-0.3, 0.7]; 0.7 z2 - z1 >=
    # -1.9, and z2 - z1 >= -1.3.
    x = torch.tensor([[[[0.6, 0.4]]]])
    dual, crown, alpha = (
        certify(two_layers(), x, y, eps=0.25, method=m).margins.item()
        for m in ("dual", "crown", "alpha")
    )
    assert dual == pytest.approx(-0.5 - 0.3 * 0.85 - 1.7 * 0.65, abs=1e-5)
    assert crown == pytest.approx(-0.5 - 2 * 0.65, abs=1e-5)
    assert alpha >= crown


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_is_certified_exactly_up_to_its_distance(method: str, norm: str) -> None:
    generator = torch.Generator().manual_seed(3)
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 36, generator=generator))
    x = 0.5 + 0.1 * torch.rand(8, 1, 6, 6, generator=generator)
    y = model(x).argmax(1)
    gap = model(x).gather(1, y[:, None]) - model(x)
    rows = model[1].weight[y][:, None] - model[1].weight
    size = rows.abs().sum(2) if norm == "linf" else rows.norm(dim=2)
    distance = (gap / size).masked_fill(gap == 0, math.inf).amin(1).detach()
    assert certify(
        model, x, y, norm=norm, eps=0.999 * distance, method=method, box=False
    ).certified.all()
    assert not certify(
        model, x, y, norm=norm, eps=1.001 * distance, method=method, box=False
    ).certified.any()


def test_the_lipschitz_radius_of_an_isometry_is_margin_over_root_two() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(3 * torch.eye(4))
    x = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.5, 0.2, 0.9]]).reshape(2, 1, 2, 2)
    found = certify(model, x, torch.tensor([0, 1]), norm="l2", eps=0.4, method="lipschitz")
    assert found.radius is not None
    assert found.radius.tolist() == pytest.approx([0.6 / math.sqrt(2), 0.0], abs=1e-5)
    assert found.certified.tolist() == [True, False]
    assert found.margins.tolist() == pytest.approx(
        [1.8 - 3 * math.sqrt(2) * 0.4, -1.2 - 3 * math.sqrt(2) * 0.4], abs=1e-5
    )
