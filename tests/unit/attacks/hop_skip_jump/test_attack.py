"""HopSkipJump: the nearest point of a plane, what a step costs, and what a row may not see."""

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.hop_skip_jump.attack import HopSkipJump
from rbl_attacks.hop_skip_jump.geometry import blend, directions, leap, starts
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import L2, Linf
from tests.conftest import images, joined, untargeted

SHAPES = [(1, 5, 9), (2, 8, 8)]


class Plane(nn.Module):
    """Two classes, or three of which one never wins, on the sides of a plane."""

    def __init__(self, shape: tuple[int, int, int], classes: int = 2) -> None:
        super().__init__()
        weight = torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))
        self.weight = weight.flatten(1)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1) @ self.weight.T
        logits = torch.cat([-score, score], 1)
        rest = logits.new_full((len(x), self.classes - 2), -100.0)
        return torch.cat([logits, rest], 1)


def search(
    attack: HopSkipJump, model: nn.Module, x: Tensor, norm: str, eps: float | None = None
) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 128), ThreatModel.parse(norm, eps))
    return joined(engine.search(untargeted(x, model(x).argmax(1))))


def rng(rows: int) -> SampleRng:
    return SampleRng.create(0, "test", torch.arange(rows))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("norm", "factor"), [("l2", 1.25), ("linf", 1.35)])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_comes_near_the_nearest_point_of_a_plane(
    shape: tuple[int, int, int], norm: str, factor: float, classes: int
) -> None:
    model = Plane(shape, classes)
    x = 0.5 + 0.3 * (images(8, shape) - 0.5)
    dual = model.weight.norm() if norm == "l2" else model.weight.abs().sum()
    nearest = ((x - 0.5).flatten(1) @ model.weight.T).squeeze(1).abs() / dual
    result = search(HopSkipJump(steps=25), model, x, norm)
    assert result.found.all()
    assert (result.size >= nearest * 0.999).all()
    assert (result.size <= nearest * factor + 1e-3).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_steps_bring_it_nearer(norm: str) -> None:
    model = Plane((1, 8, 8))
    x = images(8, (1, 8, 8))
    few, many = (search(HopSkipJump(steps=steps), model, x, norm).size for steps in (1, 20))
    assert float(many.mean()) < 0.7 * float(few.mean())


def test_a_model_of_one_class_costs_the_start_alone() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3) + torch.tensor([1.0, 0.0, 0.0])

    result = search(HopSkipJump(start_draws=20), Constant(), images(3), "l2")
    assert not result.found.any()
    assert result.forward.tolist() == [20] * 3


def test_no_iteration_begins_after_the_queries_are_spent() -> None:
    model = Plane((1, 8, 8))
    result = search(HopSkipJump(queries=300), model, images(6, (1, 8, 8)), "l2")
    assert (result.forward >= 300).all()
    assert (result.forward <= 300 + 48 * 4 + 60).all()


def test_with_eps_a_row_stops_inside_of_the_ball() -> None:
    model = Plane((1, 8, 8))
    x = 0.5 + 0.3 * (images(6, (1, 8, 8)) - 0.5)
    whole = search(HopSkipJump(steps=15), model, x, "l2")
    ball = search(HopSkipJump(steps=15), model, x, "l2", eps=2.0)
    assert ball.found.all()
    assert (ball.size <= 2.0).all()
    assert (ball.forward < whole.forward).all()


class TestGeometry:
    @pytest.mark.parametrize("grain", [1, 2])
    def test_directions_come_in_opposite_pairs_of_length_1(self, grain: int) -> None:
        drawn = directions(rng(2), torch.tensor([0, 3]), 8, torch.Size([2, 5, 7]), grain)
        assert drawn.shape == (2, 8, 2, 5, 7)
        assert torch.equal(drawn[:, :4], -drawn[:, 4:])
        assert torch.allclose(drawn.flatten(2).norm(dim=2), torch.ones(2, 8))
        alike = (drawn[..., 0:4:2, :] == drawn[..., 1:4:2, :]).flatten(2).all(2)
        assert (alike == (grain == 2)).all()

    def test_starts_are_of_several_grains(self) -> None:
        noise = starts(rng(1), torch.zeros(1).long(), 3, torch.Size([1, 8, 8]))[0, :, 0]
        assert [len(image.unique()) for image in noise] == [64, 16, 4]

    def test_a_blend_is_on_the_way_in_l2_and_is_clipped_in_linf(self) -> None:
        x = torch.zeros(1, 1, 1, 2)
        far = torch.tensor([[[[1.0, 0.2]]]])
        half = torch.tensor([0.5])
        assert torch.allclose(blend(L2(), x, far, half), far / 2)
        assert torch.allclose(blend(Linf(), x, far, half), torch.tensor([[[[0.5, 0.2]]]]))

    def test_a_leap_has_its_length_in_the_norm(self) -> None:
        x = torch.full((1, 1, 3, 3), 0.5)
        normal = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        for norm in (L2(), Linf()):
            step = leap(norm, x, normal, torch.tensor([0.2])) - x
            assert float(norm.size(step)) == pytest.approx(0.2, rel=1e-4)
            assert float((step * normal).sum()) > 0


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"draws": 0}, {"reach": 0.0}, {"queries": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="hop_skip_jump needs"):
        HopSkipJump(**wrong)  # type: ignore[arg-type]
