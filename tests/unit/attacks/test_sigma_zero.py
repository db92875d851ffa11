"""Sigma-zero: its steps against a loop by hand, pixels instead of values, and what it costs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.sigma_zero.attack import SigmaZero
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, small_network, untargeted


def found(attack: SigmaZero, model: nn.Module, x: Tensor, y: Tensor) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse("l0", None))
    return joined(engine.search(untargeted(x, y)))


def by_hand(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """The nearest success of algorithm 1 by torch's own Adam, (B,), one image at a time."""
    best = []
    for image, label in zip(x, y, strict=True):
        delta = torch.zeros_like(image, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=1.0)
        threshold, nearest = 0.3, float("inf")
        for step in range(steps + 1):
            logits = model((image + delta).unsqueeze(0))[0]
            others = logits[torch.arange(len(logits)) != label]
            margin = logits[label] - others.max()
            if margin < 0:
                nearest = min(nearest, float((delta != 0).any(0).sum()))
            square = delta.square().sum(0)
            loss = margin.clamp_min(0) + (square / (square + 1e-3)).mean()
            (gradient,) = torch.autograd.grad(loss, delta)
            delta.grad = gradient / gradient.abs().max()
            adam.param_groups[0]["lr"] = rate_at(step, steps)
            adam.step()
            with torch.no_grad():
                delta.copy_((image + delta).clamp(0, 1) - image)
                change = 0.01 * rate_at(step + 1, steps)
                threshold = min(1, max(0, threshold + (change if margin < 0 else -change)))
                delta.mul_(delta.abs().amax(0) >= threshold)
        best.append(nearest)
    return torch.tensor(best)


def rate_at(step: int, steps: int) -> float:
    return 0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 6, 6)])
@pytest.mark.parametrize("classes", [2, 4])
def test_its_steps_are_those_of_the_paper_for_pixels(
    shape: tuple[int, int, int], classes: int
) -> None:
    model = small_network(shape, classes).requires_grad_(False)
    x = images(6, shape)
    y = model(x).argmax(1)
    expected = by_hand(model, x, y, 25)
    assert expected.isfinite().any()
    size = found(SigmaZero(steps=25), model, x, y).size
    assert (size == expected).float().mean() > 0.8  # a pixel may stand at its threshold


def test_it_moves_the_channels_of_few_pixels_together() -> None:
    weight = torch.zeros(3, 6, 6)
    weight[:, 2, 3] = 1.0  # one pixel decides, if all its channels move
    layer = nn.Linear(108, 2).requires_grad_(False)
    layer.weight.copy_(torch.stack([-weight.flatten(), weight.flatten()]))
    layer.bias.copy_(torch.tensor([2.5, -2.5]))
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.full((2, 3, 6, 6), 0.5)
    result = found(SigmaZero(steps=60), model, x, torch.zeros(2, dtype=torch.int64))
    assert result.size.tolist() == [1.0, 1.0]


def test_a_step_costs_a_gradient_and_the_last_point_a_forward() -> None:
    model = small_network()
    x = images(5)
    result = found(SigmaZero(steps=7), model, x, model(x).argmax(1))
    assert result.forward.tolist() == [8] * 5
    assert result.backward.tolist() == [7] * 5


def test_constant_logits_are_survived() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    y = torch.zeros(4, dtype=torch.int64)
    assert not found(SigmaZero(steps=5), model, images(4), y).found.any()


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"learning_rate": 0}, {"sigma": 0}, {"threshold": 2}, {"threshold_rate": -1}],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SigmaZero(**wrong)
