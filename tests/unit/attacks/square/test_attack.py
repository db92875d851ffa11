"""Square: where squares lie, what a move changes, and what a linear model lets it reach."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.square.attack import Square, SquareState
from rbl_attacks.square.plan import AHEAD, Schedule, SquarePlan
from rbl_attacks.square.squares import SquareWindow, place, recolour, stripes
from rbl_attacks.square.waves import bumps, fill, shift, tiles
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, untargeted

SHAPES = [(1, 5, 9), (2, 9, 5), (3, 6, 6)]
EPS = {"linf": 0.1, "l2": 0.8, "l1": 3.0}


class Linear(nn.Module):
    """The logits (0, w x + b, ...): the optimum in a ball is known."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = weight.flatten(1)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1) @ self.weight.T + self.bias
        return torch.cat([torch.zeros_like(score[:, :1]), score], 1)


def search(attack: Square, model: nn.Module, task: Task, norm: str, eps: float) -> SearchOutcome:
    passes = Passes(DefendedModel(model), 64)
    return joined(Engine(attack, passes, ThreatModel.parse(norm, eps)).search(task))


def rng(rows: int) -> SampleRng:
    return SampleRng.create(0, "test", torch.arange(rows))


def walk(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, queries: int
) -> list[tuple[SquareState, SquareState]]:
    """The states before and after each answer."""
    attack = Square(queries=queries)
    state = attack.init(x, y, ThreatModel.parse(norm, EPS[norm]), rng(len(x)))
    steps = []
    while not state.finished.all():
        query = attack.ask(state)
        assert query.loss is not None
        logits = model(query.points)
        loss = query.loss(logits, y, torch.full_like(y, -1))
        said = logits.argmax(1)
        after = attack.tell(
            state, Answer(said != y, said, logits, loss_of=partial(torch.clone, loss))
        )
        steps.append((state, after))
        state = after
    return steps


class TestLinearModel:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_linf_finds_what_the_optimum_breaks_and_nothing_else(
        self, shape: tuple[int, int, int]
    ) -> None:
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(1, *shape, generator=generator)
        model = Linear(weight)
        x = 0.5 + 0.85 * (images(60, shape) - 0.5)
        y = model(x).argmax(1)
        margin = model(x)[:, 1].abs() - 0.05 * weight.abs().sum()
        result = search(Square(queries=1500), model, untargeted(x, y), "linf", 0.05)
        assert result.found[margin < -0.1].all()
        assert not result.found[margin > 0].any()
        assert (margin > 0).any()
        assert (margin < -0.1).any()

    @pytest.mark.parametrize(("norm", "least"), [("l2", 0.6), ("l1", 0.35)])
    def test_l2_and_l1_come_near_the_optimum_of_a_low_frequency(
        self, norm: str, least: float
    ) -> None:
        ramp = torch.linspace(-1, 1, 12)
        weight = (ramp.unsqueeze(1) * ramp).reshape(1, 1, 12, 12)
        dual = weight.norm() if norm == "l2" else weight.abs().max()
        x = torch.full((1, 1, 12, 12), 0.5)
        y = torch.zeros(1, dtype=torch.int64)
        reached = float(EPS[norm] * dual)
        model = Linear(weight, bias=-reached * least)
        assert search(Square(queries=1500), model, untargeted(x, y), norm, EPS[norm]).found.all()
        model = Linear(weight, bias=-reached * 1.001)
        assert not search(Square(queries=200), model, untargeted(x, y), norm, EPS[norm]).found.any()

    @pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
    def test_it_reaches_every_corner_from_a_given_start(
        self, norm: str, shape: tuple[int, int, int], corner: tuple[int, int]
    ) -> None:
        weight = torch.zeros(1, *shape)
        weight[:, 0, corner[0], corner[1]] = 1
        model = Linear(weight, bias=-1e-3)
        x = torch.full((4, *shape), 0.5)
        y = torch.zeros(4, dtype=torch.int64)
        task = Task(x, y, torch.full_like(y, -1), torch.arange(4), start=x)
        assert search(Square(queries=400), model, task, norm, EPS[norm]).found.all()

    def test_the_first_question_is_the_given_start(self) -> None:
        x = images(3)
        start = (x + 0.01).clamp(max=1)
        y = torch.zeros(3, dtype=torch.int64)
        state = Square().init_at(start, x, y, ThreatModel.parse("linf", 0.1), rng(3))
        assert torch.equal(Square().ask(state).points, start)

    @pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_constant_logits_cost_all_queries_and_restarts(self, norm: str, classes: int) -> None:
        weight = torch.zeros(classes - 1, 1, 6, 6)
        task = untargeted(images(3), torch.zeros(3, dtype=torch.int64))
        attack = Square(queries=30, restarts=2)
        result = search(attack, Linear(weight), task, norm, EPS[norm])
        assert not result.found.any()
        assert result.forward.tolist() == [60] * 3


class TestWalk:
    @pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_the_loss_never_falls_and_points_stay_in_the_ball(
        self, norm: str, shape: tuple[int, int, int]
    ) -> None:
        weight = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
        x = images(5, shape)
        threat = ThreatModel.parse(norm, EPS[norm])
        y = Linear(weight)(x).argmax(1)
        rose = torch.zeros(5, dtype=torch.int64)
        for before, after in walk(Linear(weight), x, y, norm, 80):
            assert (threat.excess(before.points, x) <= 0).all()
            assert (after.loss >= before.loss).all()
            rises = after.loss > before.loss
            kept = torch.where(rises.reshape(-1, 1, 1, 1), before.points, before.x_adv)
            assert torch.equal(after.x_adv, kept)
            rose += rises
        assert (rose > 1).all()

    def test_no_proposal_in_linf_repeats_the_point_once_squares_are_one_pixel(self) -> None:
        weight = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        x = images(5)
        steps = walk(Linear(weight), x, torch.zeros(5, dtype=torch.int64), "linf", 100)
        for _, after in steps[40:-1]:
            changed = (after.points != after.x_adv).flatten(1).sum(1)
            assert (changed == 1).all()

    def test_rows_have_squares_of_their_own(self) -> None:
        x = torch.full((6, 1, 16, 16), 0.5)
        steps = walk(Linear(torch.ones(1, 1, 16, 16)), x, torch.ones(6).long(), "linf", 60)
        changed = (steps[20][1].points != steps[20][1].x_adv).flatten(1)
        assert len({tuple(row.tolist()) for row in changed}) > 1


class TestPlan:
    def test_the_sizes_of_28_by_28_images_are_those_of_the_paper(self) -> None:
        schedule = Schedule(10_000, 0.8, torch.Size([1, 28, 28]), 1)
        step = torch.tensor([0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001])
        assert schedule.size_at(step).tolist() == [25, 25, 18, 18, 13, 9, 6, 4, 3, 2, 2, 1]
        short = Schedule(100, 0.8, torch.Size([1, 28, 28]), 1)
        assert short.size_at(step[:5]).tolist() == [25, 6, 4, 2, 2]

    def test_windows_of_bumps_are_odd_and_no_larger_than_the_image(self) -> None:
        schedule = Schedule(10_000, 0.8, torch.Size([1, 20, 28]), 3)
        step = torch.tensor([0, 11, 51, 9000])
        assert schedule.size_at(step).tolist() == [20, 15, 11, 3]

    def test_rows_at_different_steps_draw_what_they_would_draw_alone(self) -> None:
        schedule = Schedule(100, 0.8, torch.Size([1, 8, 8]), 1)
        step = torch.tensor([0, 5, 0])
        plan = SquarePlan.fresh(rng(3), step - step % AHEAD, 4, schedule)
        drawn = []
        for _ in range(2 * AHEAD + 4):
            plan = plan.renew(rng(3), step)
            drawn.append(plan.at(step))
            step = step + 1
        for late in range(2 * AHEAD - 5):
            assert drawn[late].size[1] == schedule.size_at(torch.tensor([late + 5]))
        alone = SquarePlan.fresh(rng(3), torch.full((3,), AHEAD), 4, schedule)
        for number in range(AHEAD - 5):
            expected = alone.unit[:, number]
            assert torch.equal(drawn[AHEAD - 5 + number].unit[1], expected[1])
            assert torch.equal(drawn[AHEAD + number].unit[0], expected[0])


class TestMoves:
    def test_places_reach_from_the_first_to_the_last_row_and_column(self) -> None:
        size = torch.tensor([3, 3, 5])
        unit = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24], [0.5, 0.5]])
        inside = place(unit, size, torch.Size([1, 5, 9])).inside
        assert inside.flatten(1).sum(1).tolist() == [9, 9, 25]
        assert inside[0, 0, :3, :3].all()
        assert inside[1, 0, -3:, -3:].all()
        assert inside[2, 0, :, 2:7].all()

    def test_stripes_are_columns_at_the_ends_of_the_ball(self) -> None:
        x = torch.full((2, 2, 4, 5), 0.5)
        delta = stripes(x, rng(2).uniform(0, (10,)), 0.1) - x
        assert torch.allclose(delta.abs(), torch.full_like(delta, 0.1))
        assert (delta == delta[:, :, :1]).all()
        assert (delta > 0).any()
        assert (delta < 0).any()

    def test_recolour_goes_to_the_ends_of_the_ball_inside_of_the_square_alone(self) -> None:
        x = images(2, (2, 6, 7))
        window = place(torch.tensor([[0.2, 0.9], [0.7, 0.1]]), torch.tensor([2, 3]), x.shape[1:])
        moved = recolour(x, x, window, torch.tensor([[0.1, 0.9], [0.9, 0.9]]), 0.1)
        side = torch.tensor([[-0.1, 0.1], [0.1, 0.1]])[:, :, None, None]
        assert torch.equal(moved, torch.where(window.inside, (x + side).clamp(0, 1), x))

    def test_a_colour_that_is_there_already_becomes_its_opposite(self) -> None:
        x = torch.full((1, 2, 4, 4), 0.5)
        window = place(torch.zeros(1, 2), torch.tensor([1]), x.shape[1:])
        unit = torch.tensor([[0.1, 0.9]])
        once = recolour(x, x, window, unit, 0.1)
        twice = recolour(x, once, window, unit, 0.1)
        assert torch.allclose(twice[0, :, 0, 0], torch.tensor([0.6, 0.4]))

    @pytest.mark.parametrize("power", [1, 2])
    def test_bumps_have_opposite_signs_and_fall_off_from_their_middles(self, power: int) -> None:
        window = place(torch.zeros(2, 2), torch.tensor([6, 6]), torch.Size([1, 8, 7]))
        bump = bumps(window, torch.tensor([False, True]), power)
        assert torch.equal(bump[0, :6, :6], bump[1, :6, :6].T)
        assert torch.equal(bump[0, :3], -bump[0, 3:6])
        assert not bump[:, 6:].any()
        assert not bump[:, :, 6:].any()
        exponent = 4 // power
        rings = [1 + 2**-exponent + 3**-exponent + 4**-exponent]
        rings += [rings[0] - 1, rings[0] - 1 - 2**-exponent]
        assert torch.allclose(bump[0, 1, 3:6], torch.tensor(rings))

    @pytest.mark.parametrize("power", [1, 2])
    def test_a_shift_empties_one_window_and_keeps_the_norm(self, power: int) -> None:
        x = torch.full((1, 2, 9, 9), 0.5)
        start = tiles(x, rng(1).uniform(0, (2, 9, 9)), 0.5, power)
        size = torch.tensor([3])
        corners = torch.zeros(1, 2), torch.full((1, 2), 0.99)
        windows = place(corners[0], size, x.shape[1:]), place(corners[1], size, x.shape[1:])
        unit = torch.tensor([[0.1, 0.1, 0.9]])
        moved = shift(x, start, windows, unit, 0.5, power)
        delta = moved - x
        assert float(delta.flatten().norm(power)) == pytest.approx(0.5, rel=1e-5)
        assert not delta[:, :, -3:, -3:].any()
        assert float((start - x)[:, :, :3, :3].norm(power)) < float(delta[:, :, :3, :3].norm(power))
        rest = torch.ones(9, 9, dtype=torch.bool)
        rest[:3, :3] = rest[-3:, -3:] = False
        assert torch.allclose(delta[:, :, rest], (start - x)[:, :, rest], atol=1e-6)

    def test_what_clipping_takes_is_spread_over_the_rest(self) -> None:
        x = torch.full((1, 1, 1, 8), 0.5)
        x[..., :4] = 0
        delta = torch.full_like(x, -1)
        moved = fill(x, delta, 0.4, 2)
        assert float((moved - x).norm()) == pytest.approx(0.4, rel=1e-5)
        assert isinstance(place(torch.zeros(1, 2), torch.ones(1).long(), x.shape[1:]), SquareWindow)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"restarts": 0}, {"p": 0.0}, {"p": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="square needs"):
        Square(**wrong)  # type: ignore[arg-type]
