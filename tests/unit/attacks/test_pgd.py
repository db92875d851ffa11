"""PGD with momentum."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.pgd import PGD
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.lock_step import craft
from robustbench_lite.search.task import Task
from robustbench_lite.threat import ThreatModel


def curved() -> tuple[nn.Module, Tensor, Tensor]:
    """A model whose gradient changes direction from step to step."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)
    ).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
    x = torch.rand(6, 1, 3, 4, generator=generator)
    return model, x, model(x).argmax(1)


def by_hand(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    momentum: float,
    steps: int,
    step_size: float,
    eps: float,
) -> Tensor:
    x_adv, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        velocity = momentum * velocity + grad / grad.abs().flatten(1).sum(1).reshape(-1, 1, 1, 1)
        x_adv = (x + (x_adv.detach() + step_size * velocity.sign() - x).clamp(-eps, eps)).clamp(
            0, 1
        )
    return x_adv


@pytest.mark.parametrize("momentum", [0.5, 1.0])
def test_momentum_sums_the_normalised_gradients(momentum: float) -> None:
    model, x, y = curved()
    threat = ThreatModel.parse("linf", 0.2)
    found = craft(
        model,
        PGD(steps=8, step_size=0.05, random_start=False, momentum=momentum),
        x,
        y,
        threat,
        index=torch.arange(6),
        seed=0,
    )
    torch.testing.assert_close(
        found, by_hand(model, x, y, momentum, 8, 0.05, 0.2), atol=1e-6, rtol=0
    )
    assert not torch.allclose(found, by_hand(model, x, y, 0.0, 8, 0.05, 0.2), atol=1e-3)


def test_a_momentum_above_one_is_refused() -> None:
    with pytest.raises(UsageError, match="momentum from 0 to 1"):
        PGD(momentum=1.5)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_its_steps_can_cross_the_ball_and_end_at_the_corner_that_a_linear_model_is_worst_at(
    steps: int,
) -> None:
    layer = nn.Linear(12, 2, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.randn(2, 12, generator=torch.Generator().manual_seed(0)))
    model, x, y = (
        nn.Sequential(nn.Flatten(), layer),
        torch.full((5, 1, 3, 4), 0.5),
        torch.zeros(5, dtype=torch.int64),
    )
    threat, worst = (
        ThreatModel.parse("linf", 0.2),
        0.2 * (layer.weight[1] - layer.weight[0]).sign().reshape(1, 3, 4),
    )
    for start in (False, True):
        attack = PGD(steps=steps, random_start=start)
        found = craft(model, attack, x, y, threat, index=torch.arange(5), seed=0)
        torch.testing.assert_close(found - x, worst.expand_as(x), atol=1e-6, rtol=0)


def test_it_begins_anywhere_in_the_ball_or_at_the_image() -> None:
    model, x, y = curved()
    threat = ThreatModel.parse("linf", 0.2)
    still: dict[str, Any] = {"steps": 1, "step_size": 1e-9}
    anywhere = (
        craft(model, PGD(**still), x * 0 + 0.5, y, threat, index=torch.arange(6), seed=0) - 0.5
    )
    assert anywhere.min() < -0.15
    assert anywhere.max() > 0.15
    image = craft(
        model, PGD(**still, random_start=False), x, y, threat, index=torch.arange(6), seed=0
    )
    torch.testing.assert_close(image, x)


@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (3, 1), (3, 4)])
def test_it_costs_a_gradient_a_step_and_one_forward_more_for_the_last_point_of_a_run(
    steps: int, restarts: int
) -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.full((5, 1, 3, 4), 0.5), torch.zeros(5, dtype=torch.int64)
    engine = Engine(
        PGD(steps=steps, restarts=restarts),
        Passes(DefendedModel(model), 64),
        ThreatModel.parse("linf", 0.2),
    )
    (spent,) = engine.search(Task(x, y, y - 1, torch.arange(5)))
    assert spent.forward.tolist() == [(steps + 1) * restarts] * 5
    assert spent.backward.tolist() == [steps * restarts] * 5
