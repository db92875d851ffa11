"""RayS: which blocks are flipped, and the nearest corner ray of a plane."""

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.rays.attack import RayS
from rbl_attacks.rays.blocks import Block
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, untargeted


class Plane(nn.Module):
    """Classes 0 and 1 on the sides of a plane; class 2, if there, never wins."""

    def __init__(self, weight: Tensor, classes: int = 2) -> None:
        super().__init__()
        self.weight = weight.flatten().unsqueeze(1)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1) @ self.weight
        rest = score.new_full((len(x), self.classes - 2), -100.0)
        return torch.cat([-score, score, rest], 1)


def search(attack: RayS, model: nn.Module, x: Tensor, eps: float | None = None) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse("linf", eps))
    return joined(engine.search(untargeted(x, model(x).argmax(1))))


@pytest.mark.parametrize("shape", [(1, 5, 9), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_it_finds_the_nearest_point_of_a_plane(shape: tuple[int, int, int], classes: int) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(4))
    x = 0.5 + 0.3 * (images(10, shape) - 0.5)
    model = Plane(weight, classes)
    nearest = ((x - 0.5).flatten(1) @ model.weight).squeeze(1).abs() / weight.abs().sum()
    result = search(RayS(queries=1500, tolerance=1e-4), model, x)
    assert result.found.all()
    assert (result.size >= nearest * 0.999).all()
    # Flips of the smallest parts gain less than the tolerance at last.
    assert (result.size <= nearest * 1.2 + 2e-3).all()


def test_the_whole_image_is_flipped_first_and_found_in_a_few_queries() -> None:
    x = torch.full((1, 1, 8, 8), 0.4)
    result = search(RayS(queries=40), Plane(torch.ones(1, 8, 8)), x)
    assert float(result.size) == pytest.approx(0.1, abs=2.1e-3)


def test_a_model_of_one_class_costs_all_queries() -> None:
    model = Plane(torch.zeros(1, 4, 4), 3)
    result = search(RayS(queries=50), model, images(3, (1, 4, 4)))
    assert not result.found.any()
    assert result.forward.tolist() == [50] * 3


def test_with_eps_it_stops_at_the_first_success_inside() -> None:
    x = torch.full((2, 1, 8, 8), 0.4)
    model = Plane(torch.ones(1, 8, 8))
    ball = search(RayS(queries=100), model, x, eps=0.3)
    assert ball.found.all()
    assert (ball.size <= 0.3).all()
    assert (ball.forward <= 6).all()


def test_the_parts_of_each_level_cover_every_value_once() -> None:
    like = torch.zeros(1, 1, 3, 7)
    block = Block(torch.zeros(1).long(), torch.zeros(1).long())
    levels: list[int] = []
    covered = torch.zeros(3, 7, dtype=torch.int64)
    for _ in range(1 + 2 + 4 + 8 + 16):
        covered += block.mask(like)[0, 0]
        levels.append(int(block.level))
        block = block.after(21)
        if int(block.number) == 0:
            assert (covered == len(set(levels))).all()
    assert levels == [0] + [1] * 2 + [2] * 4 + [3] * 8 + [4] * 16
    assert (int(block.level), int(block.number)) == (0, 0)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"tolerance": 0.0}, {"tolerance": 1.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="rays needs"):
        RayS(**wrong)  # type: ignore[arg-type]
