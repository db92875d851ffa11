"""FAB: known answers on linear models, what it asks, and where it begins."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.fab.attack import FAB
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, untargeted

SHAPE = (1, 5, 9)


def linear(classes: int) -> Any:
    layer = nn.Linear(45, classes).requires_grad_(False)
    layer.weight.copy_(torch.randn(classes, 45, generator=torch.Generator().manual_seed(classes)))
    layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def images(model: nn.Module, rows: int = 8) -> tuple[Tensor, Tensor]:
    x = 0.4 + 0.2 * torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def found(attack: FAB, model: nn.Module, norm: str, eps: float | None = None) -> SearchOutcome:
    x, y = images(model)
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse(norm, eps))
    return joined(engine.search(untargeted(x, y)))


def distances(model: Any, norm: str) -> Tensor:
    """To the nearest plane where no bound is in the way, (B,)."""
    x, y = images(model)
    logits = model(x)
    weight = model[1].weight
    order = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm]
    gap = logits.gather(1, y.unsqueeze(1)) - logits  # (B, K)
    slope = torch.linalg.vector_norm(weight[y].unsqueeze(1) - weight, ord=order, dim=2)
    nearest: Tensor = (gap / slope).scatter(1, y.unsqueeze(1), float("inf")).amin(1)
    return nearest


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", ["none", "top:9", "all", "malt:1"])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_it_finds_the_nearest_plane_of_a_linear_model(
    norm: str, targets: str, classes: int
) -> None:
    model = linear(classes)
    size = found(FAB(steps=15, targets=targets), model, norm).size
    expected = distances(model, norm)
    assert (size >= expected * (1 - 1e-4)).all()
    assert (size <= expected * 1.01).all()


def test_in_l1_it_moves_the_steepest_values_up_to_their_bounds() -> None:
    model = linear(2)
    x, y = images(model)
    gradient = model[1].weight[1 - y] - model[1].weight[y]  # (B, N)
    logits = model(x)
    need = (logits.gather(1, y.unsqueeze(1)) - logits.gather(1, 1 - y.unsqueeze(1))).squeeze(1)
    flat = x.flatten(1)
    room = torch.where(gradient > 0, 1 - flat, flat)
    weight, order = gradient.abs().sort(dim=1, descending=True)
    gains = weight * room.gather(1, order)
    left = need.unsqueeze(1) - gains.cumsum(1) + gains
    expected = torch.minimum((left / weight).clamp_min(0), room.gather(1, order)).sum(1)
    size = found(FAB(steps=20), model, "l1").size
    assert (size >= expected * (1 - 1e-4)).all()
    assert (size <= expected * 1.01).all()


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_class_costs_a_gradient_a_step_and_a_forward(restarts: int) -> None:
    result = found(FAB(steps=4, targets="top:2", restarts=restarts), linear(5), "l2")
    assert result.backward.tolist() == [4 * 2 * restarts] * 8
    assert result.forward.tolist() == [(1 + 2 * 5) * restarts] * 8


def test_all_planes_at_once_cost_a_gradient_a_wrong_class() -> None:
    result = found(FAB(steps=4, targets="none"), linear(5), "l2")
    assert result.backward.tolist() == [4 * 4] * 8
    assert result.forward.tolist() == [1 + 4 * 4 + 1] * 8


def begun(restart: int, eps: float | None, norm: str) -> tuple[Tensor, Tensor]:
    x = torch.full((4, *SHAPE), 0.5)
    index = torch.arange(4)
    rng = SampleRng.create(0, "test", index, torch.full((4,), restart))
    state = FAB().init(x, index, ThreatModel.parse(norm, eps), rng)
    return state.start, x


@pytest.mark.parametrize(("norm", "default"), [("linf", 0.3), ("l2", 1.0), ("l1", 5.0)])
def test_the_first_run_begins_at_the_image_and_restarts_within_half_the_radius(
    norm: str, default: float
) -> None:
    assert torch.equal(*begun(0, 0.2, norm))
    for eps in (0.2, None):
        start, x = begun(1, eps, norm)
        size = ThreatModel.parse(norm, None).norm.size(start - x)
        radius = default if eps is None else eps
        assert (size > 0.2 * radius).all()
        assert (size <= radius / 2 * 1.001).all()


def test_a_success_goes_back_and_a_failure_does_not() -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    index = torch.arange(2)
    attack = FAB(steps=5, alpha_max=0.0, eta=1.0, targets="top:1")
    threat = ThreatModel.parse("linf", None)
    state = attack.init(x, index * 0, threat, SampleRng.create(0, "test", index))
    logits = torch.tensor([[0.1, 0.0]]).expand(2, 2)
    nothing = torch.zeros(2)
    quiet = Answer(nothing > 0, index * 0, logits, torch.zeros_like(x), lambda: nothing)
    state = attack.tell(state, quiet)  # ranks
    state = state.replace(x_adv=x + torch.tensor([0.2, 0.0]))
    # f = d_0 + d_1 - 0.1, which is 0.1 at (0.2, 0).
    gradient = torch.tensor([1.0, 1.0]).reshape(1, 1, 1, 2).expand(2, 1, 1, 2)
    value = torch.full((2,), 0.1)
    answer = Answer(torch.tensor([True, False]), index * 0, logits, gradient, lambda: value)
    moved = (attack.tell(state, answer).x_adv - x).flatten(1)
    # Back by a tenth to (0.18, 0), f = 0.08, then both by 0.04; else from f = 0.1 both by 0.05.
    torch.testing.assert_close(moved, torch.tensor([[0.14, -0.04], [0.15, -0.05]]))


def test_constant_logits_are_survived() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(45, 3)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for norm in ("linf", "l2", "l1"):
        assert not found(FAB(steps=3), model, norm).found.any()


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"restarts": 0}, {"eta": 0.9}, {"beta": 1.1}, {"targets": "first"}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        FAB(**wrong)
