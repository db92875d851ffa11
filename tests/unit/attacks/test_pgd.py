"""PGD with momentum."""

import pytest
import torch
from torch import nn

from rbl_attacks.pgd import PGD
from robustbench_lite.errors import UsageError
from robustbench_lite.search.craft import craft
from robustbench_lite.threat import ThreatModel


def curved():
    """A model whose gradient changes direction from step to step."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
    x = torch.rand(6, 1, 3, 4, generator=generator)
    return model, x, model(x).argmax(1)


def by_hand(model, x, y, momentum, steps, step_size, eps):
    x_adv, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        velocity = momentum * velocity + grad / grad.abs().flatten(1).sum(1).reshape(-1, 1, 1, 1)
        x_adv = (x + (x_adv.detach() + step_size * velocity.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("momentum", [0.5, 1.0])
def test_momentum_sums_the_normalised_gradients(momentum):
    model, x, y = curved()
    threat = ThreatModel.parse("linf", 0.2)
    found = craft(
        model, PGD(steps=8, step_size=0.05, random_start=False, momentum=momentum), x, y, threat, index=torch.arange(6), seed=0
    )
    torch.testing.assert_close(found, by_hand(model, x, y, momentum, 8, 0.05, 0.2), atol=1e-6, rtol=0)
    assert not torch.allclose(found, by_hand(model, x, y, 0.0, 8, 0.05, 0.2), atol=1e-3)


def test_a_momentum_above_one_is_refused():
    with pytest.raises(UsageError, match="momentum from 0 to 1"):
        PGD(momentum=1.5)
