"""PDPGD: proximal operators against a search, known answers, weights and what it costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.pdpgd.attack import PDPGD
from rbl_attacks.pdpgd.proximal import PROXIMALS
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, small_network, untargeted


def found(attack: PDPGD, model: nn.Module, x: Tensor, y: Tensor, norm: str) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse(norm, None))
    return joined(engine.search(untargeted(x, y)))


def cost_of(norm: str, z: Tensor) -> Tensor:
    """The norm of each row of ``z`` (B, C, H, W), (B,): for L0 the sum of m^(2/3) of its pixels."""
    flat = z.flatten(1)
    if norm == "l0":
        pixels: Tensor = torch.linalg.vector_norm(z, dim=1) ** (2 / 3)
        return pixels.flatten(1).sum(1)
    order = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}[norm]
    size: Tensor = torch.linalg.vector_norm(flat, ord=order, dim=1)
    return size


@pytest.mark.parametrize("norm", sorted(PROXIMALS))
@pytest.mark.parametrize("weight", [0.01, 0.3, 2.0])
def test_no_point_near_or_far_costs_less_than_the_proximal_one(norm: str, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(5, 2, 2, 3, generator=generator)
    level = torch.full((5,), weight)

    def total(z: Tensor) -> Tensor:
        return weight * cost_of(norm, z) + (z - delta).square().flatten(1).sum(1) / 2

    nearest = PROXIMALS[norm](delta, level)
    least = total(nearest)
    noise = torch.randn(300, *delta.shape, generator=generator)
    shares = torch.rand(300, 5, 1, 2, 3, generator=generator)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for other in (nearest + scale * noise, nearest * (1 + scale * noise), nearest * shares):
            assert all((total(z) >= least - 1e-5).all() for z in other)
    assert (total(delta) >= least - 1e-5).all()
    assert (total(delta * 0) >= least - 1e-5).all()


@pytest.mark.parametrize("norm", sorted(PROXIMALS))
def test_a_large_weight_leaves_nothing_and_a_small_one_everything(norm: str) -> None:
    delta = torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert PROXIMALS[norm](delta, torch.full((3,), 1e3)).abs().max() < 1e-5
    torch.testing.assert_close(
        PROXIMALS[norm](delta, torch.full((3,), 1e-9)), delta, atol=1e-5, rtol=1e-4
    )
    assert not PROXIMALS[norm](delta * 0, torch.ones(3)).any()


@pytest.mark.parametrize(("norm", "order"), [("linf", 1.0), ("l2", 2.0), ("l1", float("inf"))])
def test_it_comes_close_to_the_boundary_of_a_linear_model(norm: str, order: float) -> None:
    layer = nn.Linear(45, 2).requires_grad_(False)
    layer.weight.copy_(torch.randn(2, 45, generator=torch.Generator().manual_seed(0)))
    layer.bias.copy_(-0.5 * layer.weight.sum(1))
    model = nn.Sequential(nn.Flatten(), layer)
    x = 0.45 + 0.1 * images(8, (1, 5, 9))
    logits = model(x)
    slope = torch.linalg.vector_norm(layer.weight[0] - layer.weight[1], ord=order)
    expected = (logits[:, 0] - logits[:, 1]).abs() / slope
    near = (expected > 0.01) & (expected < 0.4)
    assert near.any()
    size = found(PDPGD(steps=300), model, x, logits.argmax(1), norm).size
    assert (size[near] >= expected[near] * (1 - 1e-4)).all()
    assert (size[near] <= expected[near] * 1.2).all()


def test_the_weight_of_the_margin_falls_after_a_success_and_rises_after_a_failure() -> None:
    attack = PDPGD(steps=11)
    x = torch.full((2, 1, 1, 2), 0.5)
    index = torch.arange(2)
    state = attack.init(x, index, ThreatModel.parse("l2", None), SampleRng.create(0, "", index))
    value = torch.tensor([-0.3, -2.0])
    answer = Answer(
        torch.tensor([True, False]), index, torch.zeros(2, 2), torch.ones_like(x), lambda: value
    )
    first = attack.tell(state, answer)
    change = first.log_weight - state.log_weight
    torch.testing.assert_close(change, torch.tensor([-0.1, 0.1]))
    last = attack.tell(first.replace(step=index * 0 + 10), answer)
    change = last.log_weight - first.log_weight
    torch.testing.assert_close(change, torch.tensor([-0.01, 0.01]))
    assert first.weight[0] < state.weight[0] < first.weight[1]
    # Adam's first step, less what the norm takes off.
    assert ((first.x_adv - x - 0.1).abs() < 1e-3).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", sorted(PROXIMALS))
def test_few_classes_and_odd_shapes_are_enough_and_cost_what_is_said(
    norm: str, classes: int
) -> None:
    model = small_network((1, 5, 9), classes)
    x = images(10, (1, 5, 9))
    result = found(PDPGD(steps=40), model, x, model(x).argmax(1), norm)
    assert result.found.all()
    assert result.forward.tolist() == [41] * 10
    assert result.backward.tolist() == [40] * 10


@pytest.mark.parametrize("norm", sorted(PROXIMALS))
def test_constant_logits_are_survived(norm: str) -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    y = torch.zeros(4, dtype=torch.int64)
    assert not found(PDPGD(steps=5), model, images(4), y, norm).found.any()


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"learning_rate": 0}, {"dual_rate": 0}, {"proximal_steps": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PDPGD(**wrong)
