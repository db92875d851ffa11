"""FMN: known answers, how its radius changes, and what it costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.fmn.attack import FMN
from rbl_attacks.fmn.balls import PROJECTIONS
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import NORMS, ThreatModel
from tests.conftest import images, joined, small_network, untargeted

DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


def found(attack: FMN, model: nn.Module, x: Tensor, y: Tensor, norm: str) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse(norm, None))
    return joined(engine.search(untargeted(x, y)))


def linear() -> Any:
    layer = nn.Linear(45, 2).requires_grad_(False)
    layer.weight.copy_(torch.randn(2, 45, generator=torch.Generator().manual_seed(0)))
    layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("norm", sorted(DUAL))
def test_it_comes_close_to_the_boundary_of_a_linear_model(norm: str) -> None:
    model = linear()
    x = 0.45 + 0.1 * images(8, (1, 5, 9))
    logits = model(x)
    slope = torch.linalg.vector_norm(model[1].weight[0] - model[1].weight[1], ord=DUAL[norm])
    expected = (logits[:, 0] - logits[:, 1]).abs() / slope
    near = expected < 0.4  # no bound is in the way
    assert near.any()
    size = found(FMN(steps=200), model, x, logits.argmax(1), norm).size
    assert (size[near] >= expected[near] * (1 - 1e-4)).all()
    assert (size[near] <= expected[near] * 1.02).all()


def test_in_l0_it_needs_few_more_pixels_than_the_steepest_moved_to_their_bounds() -> None:
    model = linear()
    x = images(8, (1, 5, 9))
    logits = model(x)
    y = logits.argmax(1)
    gradient = model[1].weight[1 - y] - model[1].weight[y]
    flat = x.flatten(1)
    gains = gradient.abs() * torch.where(gradient > 0, 1 - flat, flat)
    need = (logits[:, 0] - logits[:, 1]).abs().unsqueeze(1)
    fewest = (gains.sort(dim=1, descending=True).values.cumsum(1) < need).sum(1) + 1
    size = found(FMN(steps=200), model, x, y, "l0").size
    assert (size >= fewest).all()
    assert (size <= fewest + 1).all()


def told(attack: FMN, norm: str, success: bool, points: Tensor, **fields: Any) -> Any:
    """The state after one answer at ``points``: margin 0.3, gradient (0.6, 0.8) of its loss."""
    x = torch.full_like(points, 0.5)
    index = torch.arange(len(x))
    state = attack.init(x, index * 0, ThreatModel.parse(norm, None), SampleRng.create(0, "", index))
    gradient = torch.tensor([0.6, 0.8]).expand_as(points)
    value = torch.full((len(x),), 0.3 if success else -0.3)
    wins = torch.full((len(x),), success)
    answer = Answer(wins, index, torch.zeros(len(x), 2), gradient, lambda: value)
    return attack.tell(state.replace(x_adv=points, **fields), answer)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.4), ("l2", 1.0), ("l1", 0.8)])
def test_the_first_radius_is_the_distance_to_the_linearised_boundary(
    norm: str, dual: float
) -> None:
    state = told(FMN(), norm, False, torch.full((1, 1, 1, 2), 0.5))
    assert float(state.radius) == pytest.approx(0.3 / dual, rel=1e-5)
    size = NORMS[norm].size(state.x_adv - 0.5)
    assert float(size) == pytest.approx(0.3 / dual, rel=1e-5)


@pytest.mark.parametrize(
    ("success", "best", "expected"),
    [
        (True, float("inf"), 0.1),  # no farther than the success itself
        (True, 0.05, 0.05),
        (False, 0.3, 0.21),  # after a success in the past it grows by gamma
        (False, float("inf"), 0.4),  # before, to the linearised boundary
    ],
)
def test_the_radius_shrinks_after_a_success_and_grows_after_a_failure(
    success: bool, best: float, expected: float
) -> None:
    points = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
    fields = {"radius": torch.tensor([0.2]), "best": torch.tensor([best])}
    state = told(FMN(gamma=0.05), "l2", success, points, **fields)
    assert float(state.radius) == pytest.approx(expected, rel=1e-5)


def test_before_the_first_success_the_radius_grows_however_near_the_boundary_seems() -> None:
    points = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
    state = told(FMN(gamma=0.05), "l2", False, points, radius=torch.tensor([0.4]))
    assert float(state.radius) == pytest.approx(0.42, rel=1e-5)


@pytest.mark.parametrize("norm", sorted(DUAL))
def test_a_failure_is_stretched_to_the_radius_so_that_it_leaves_maxima_of_the_margin(
    norm: str,
) -> None:
    points = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
    state = told(FMN(step_size=0.01), norm, False, points, radius=torch.tensor([0.4]))
    assert float(state.radius) > 0.4
    assert float(NORMS[norm].size(state.x_adv - 0.5)) == pytest.approx(
        float(state.radius), rel=1e-4
    )


def test_the_l0_radius_changes_by_a_pixel_at_least() -> None:
    points = torch.full((1, 1, 1, 2), 0.5)
    fields = {"radius": torch.ones(1), "worst": torch.full((1,), 9.0)}
    assert float(told(FMN(), "l0", False, points, **fields).radius) == 2
    assert float(told(FMN(), "l0", True, points, **fields).radius) == 0


@pytest.mark.parametrize("norm", sorted(PROJECTIONS))
def test_its_projections_are_those_of_the_norms(norm: str) -> None:
    delta = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    radius = torch.tensor([0.0, 1.0, 2.0, 5.0, 19.0, 60.0])
    expected = NORMS[norm].project(delta, radius)
    torch.testing.assert_close(PROJECTIONS[norm](delta, radius), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", sorted(PROJECTIONS))
def test_few_classes_and_odd_shapes_are_enough_and_cost_what_is_said(
    norm: str, classes: int
) -> None:
    model = small_network((1, 5, 9), classes)
    x = images(10, (1, 5, 9))
    result = found(FMN(steps=30), model, x, model(x).argmax(1), norm)
    assert result.found.all()
    assert result.forward.tolist() == [31] * 10
    assert result.backward.tolist() == [30] * 10


def test_constant_logits_are_survived() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for norm in PROJECTIONS:
        y = torch.zeros(4, dtype=torch.int64)
        assert not found(FMN(steps=5), model, images(4), y, norm).found.any()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"step_size": 0}, {"gamma": 0}, {"gamma": 1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        FMN(**wrong)
