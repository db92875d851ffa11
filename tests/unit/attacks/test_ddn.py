"""DDN: known answers, its steps against a loop by hand, and what it costs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbl_attacks.ddn.attack import DDN
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, small_network, untargeted


def found(attack: DDN, model: nn.Module, x: Tensor, y: Tensor) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse("l2", None))
    return joined(engine.search(untargeted(x, y)))


def by_hand(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """The nearest success of algorithm 1, (B,), of the points after steps 0 to ``steps``."""
    delta = torch.zeros_like(x)
    length = torch.ones(len(x))
    best = torch.full((len(x),), float("inf"))
    for step in range(steps + 1):
        delta.requires_grad_()
        logits = model(x + delta)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), delta)
        delta = delta.detach()
        wrong = logits.argmax(1) != y
        size = delta.flatten(1).norm(dim=1)
        best = torch.where(wrong & (size < best), size, best)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = delta + rate * gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        length = length * torch.where(wrong, 0.95, 1.05)
        delta = delta * (length / delta.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
        delta = (x + delta).clamp(0, 1) - x
    return best


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_its_steps_are_those_of_the_paper(classes: int) -> None:
    model = small_network((1, 5, 9), classes)
    x = images(10, (1, 5, 9))
    y = model(x).argmax(1)
    expected = by_hand(model, x, y, 20)
    assert expected.isfinite().all()
    torch.testing.assert_close(found(DDN(steps=20), model, x, y).size, expected, rtol=1e-3, atol=0)


def test_it_comes_close_to_the_boundary_of_a_linear_model() -> None:
    layer = nn.Linear(45, 2).requires_grad_(False)
    layer.weight.copy_(torch.randn(2, 45, generator=torch.Generator().manual_seed(0)))
    layer.bias.copy_(-0.5 * layer.weight.sum(1))
    model = nn.Sequential(nn.Flatten(), layer)
    x = 0.4 + 0.2 * images(8, (1, 5, 9))
    logits = model(x)
    expected = (logits[:, 0] - logits[:, 1]).abs() / (layer.weight[0] - layer.weight[1]).norm()
    size = found(DDN(steps=200, gamma=0.02, init_norm=0.1), model, x, logits.argmax(1)).size
    assert (size >= expected * (1 - 1e-4)).all()
    assert (size <= expected * 1.04).all()


def test_a_step_costs_a_gradient_and_the_last_point_a_forward() -> None:
    model = small_network()
    x = images(5)
    result = found(DDN(steps=7), model, x, model(x).argmax(1))
    assert result.forward.tolist() == [8] * 5
    assert result.backward.tolist() == [7] * 5


def test_constant_logits_move_nothing_but_are_survived() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    x = images(4)
    assert not found(DDN(steps=5), model, x, torch.zeros(4, dtype=torch.int64)).found.any()


def test_points_can_be_rounded_to_levels() -> None:
    model = small_network()
    x = (images(8) * 255).round() / 255
    x_adv = found(DDN(steps=30, levels=256), model, x, model(x).argmax(1)).x_adv * 255
    assert (x_adv - x_adv.round()).abs().max() < 1e-3


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"gamma": 0}, {"init_norm": 0}, {"levels": 1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DDN(**wrong)
