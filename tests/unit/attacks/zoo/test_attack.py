"""ZOO: where its noise may go, what a step costs, and that a row is its own."""

from typing import Any, Literal, Self, cast

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.zoo.attack import ZOO
from rbl_attacks.zoo.order import shuffle, weigh
from rbl_attacks.zoo.space import NoiseSpace
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer, Query
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, present, untargeted

SHAPE = (1, 6, 6)
L2 = ThreatModel.parse("l2", None)
VARIANTS = [
    {},
    {"tanh": True},
    {"update": "newton", "learning_rate": 0.5},
    {"importance": True},
    {"attack_size": 3},
    {"attack_size": 3, "grow_every": 4, "importance": True},
    {"attack_size": 4, "tanh": True},
]


def linear(classes: int = 3) -> Any:
    generator = torch.Generator().manual_seed(classes)
    layer = nn.Linear(36, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 36, generator=generator))
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)


def images(model: nn.Module, rows: int = 6, on_bounds: bool = True) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.3
    if on_bounds:
        x[..., ::2] = x[..., ::2].round()
    return x, model(x).argmax(1)


def search(
    attack: ZOO, model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 1024
) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), batch_size), L2)
    return joined(engine.search(untargeted(x, y)))


def answer_of(query: Query, model: nn.Module, y: Tensor) -> Answer:
    """What the oracle would say."""
    logits, shape = model(query.points.flatten(0, 1)), query.points.shape[:2]
    spread = y.repeat_interleave(shape[1])
    loss = present(query.loss)(logits, spread, torch.full_like(spread, -1)).reshape(shape)
    return Answer(loss > 0, logits.argmax(1).reshape(shape), loss_of=lambda: loss)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_row_of_a_batch_moves_both_ways_and_is_found(variant: dict[str, Any]) -> None:
    model = linear()
    x, y = images(model, on_bounds="tanh" not in variant)  # with tanh those values hardly move
    options = {
        "steps": 60,
        "coordinates": 12,
        "search_steps": 3,
        "initial_const": 1.0,
        "learning_rate": 0.03,
        **variant,
    }
    result = search(ZOO(**options), model, x, y)
    assert result.found.all()
    change = (result.x_adv - x).flatten(1)
    assert (change.amax(1) > 0).all()
    assert (change.amin(1) < 0).all()  # noise may be negative


@pytest.mark.parametrize(("coordinates", "a_step"), [(5, 11), (18, 37), (128, 73)])
def test_a_step_costs_two_forwards_a_coordinate_and_one(coordinates: int, a_step: int) -> None:
    model = linear()
    x, y = images(model, rows=3)
    attack = ZOO(
        steps=7, coordinates=coordinates, search_steps=1, initial_const=1.0, learning_rate=1e-3
    )
    result = search(attack, model, x, y)
    assert attack.points(SHAPE) == a_step
    # Seven steps, and a look at where they led.
    assert (result.forward == 7 * a_step + 1).all()
    assert not result.backward.any()


def test_every_constant_costs_as_much_as_the_first_where_none_succeeds() -> None:
    model = linear()
    x, y = images(model, rows=3)
    options: dict[str, Any] = {
        "steps": 7,
        "coordinates": 36,
        "initial_const": 1.0,
        "learning_rate": 1e-5,
    }
    one, five = (search(ZOO(search_steps=count, **options), model, x, y) for count in (1, 5))
    assert not five.found.any()
    assert torch.equal(five.forward, 5 * one.forward)
    assert one.forward.max() == 7 * 73 + 1


def test_points_asked_lie_in_bounds_and_differ_in_one_value_from_the_first() -> None:
    attack, model = ZOO(coordinates=10), linear()
    x, y = images(model)
    state = attack.init(x, y, L2, SampleRng.create(0, "test", torch.arange(len(y))))
    points = attack.ask(state).points  # (B, 21, C, H, W)
    assert ((points >= 0) & (points <= 1)).all()
    differing = (points != points[:, :1]).flatten(2).sum(2)
    assert torch.equal(points[:, 0], x)
    assert (differing <= 1).all()
    assert ((differing[:, 1:11] + differing[:, 11:]) >= 1).all()  # at a bound one side is left


def test_the_slope_is_the_gradient() -> None:
    model = linear(2)
    x, y = images(model)
    attack = ZOO(coordinates=36, initial_const=1.0, learning_rate=1e-3)
    state = attack.init(x, y, L2, SampleRng.create(0, "test", torch.arange(len(y))))
    state = attack.tell(state, answer_of(attack.ask(state), model, y))
    weight = model[1].weight
    slope = weight[y] - weight[1 - y]  # of the margin
    first = state.memory[:, 0] / 0.1  # (B, D): the first moment holds a tenth of the first slope
    assert torch.allclose(first, slope, atol=0.03)
    # Adam's first move is learning_rate long, against the slope, up to the bounds.
    expected = (x.flatten(1) - 1e-3 * slope.sign()).clamp(0, 1) - x.flatten(1)
    assert torch.allclose(state.noise, expected, atol=1e-5)


def test_between_two_shuffles_no_coordinate_moves_twice() -> None:
    attack, model = (
        ZOO(coordinates=7, initial_const=1.0, learning_rate=1e-3, confidence=100.0),
        linear(),
    )
    x, y = images(model)
    state = attack.init(x, y, L2, SampleRng.create(0, "test", torch.arange(len(y))))
    orders = []
    for _ in range(2):
        orders.append(state.order)
        for step in range(5):  # 36 coordinates are five parts of seven
            assert (state.memory[:, 2].sum(1) == 35 * (len(orders) - 1) + 7 * step).all()
            assert (state.memory[:, 2] <= len(orders)).all()
            state = attack.tell(state, answer_of(attack.ask(state), model, y))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0][0], orders[0][1])  # each row has its own


@pytest.mark.parametrize("update", ["adam", "newton"])
def test_where_the_other_class_leads_by_enough_a_move_costs_one_forward_and_goes_straight_back(
    update: Literal["adam", "newton"],
) -> None:
    attack, model = (
        ZOO(coordinates=36, initial_const=1.0, learning_rate=0.01, update=update),
        linear(),
    )
    x, y = images(model, on_bounds=False)
    other = (y + 1) % 3
    state = attack.init(x, y, L2, SampleRng.create(0, "test", torch.arange(len(y))))
    noise = 0.2 * (model[1].weight[other] - model[1].weight[y]).sign()  # far across the boundary
    state = state.replace(noise=((x.flatten(1) + noise).clamp(0, 1) - x.flatten(1)))
    across = attack.tell(state, answer_of(attack.ask(state), model, y))
    assert across.probing.all()
    query = attack.ask(across)
    assert present(query.valid).sum(1).tolist() == [1] * len(y)
    answer = answer_of(query, model, y)
    unknown = answer.need_loss().masked_fill(~present(query.valid), float("nan"))
    after = attack.tell(across, Answer(answer.success, answer.labels, loss_of=lambda: unknown))
    assert (after.noise.abs() < across.noise.abs()).flatten().float().mean() > 0.99
    assert (after.step == 2).all()
    # A probe that comes out on the near side moves nothing: the next query asks for the slopes
    # there.
    back = Answer(answer.success, answer.labels, loss_of=lambda: -torch.ones_like(unknown))
    near = attack.tell(state.replace(noise=state.noise * 0, probing=~state.probing), back)
    assert not near.noise.any()
    assert not near.probing.any()
    assert not near.step.any()


@pytest.mark.parametrize("importance", [False, True])
def test_an_order_names_every_coordinate_once(importance: bool) -> None:
    space = NoiseSpace.create((2, 5, 4), None, False, False)
    rng, x = SampleRng.create(0, "test", torch.arange(3)), torch.rand(3, 2, 5, 4)
    weight = weigh(space, x, torch.zeros(3, 40)) if importance else None
    order = shuffle(space, rng, torch.tensor([0, 0, 5]), torch.zeros(3, dtype=torch.int64), weight)
    assert torch.equal(order.sort(1).values, torch.arange(40).expand(3, -1))


def test_importance_prefers_what_has_changed() -> None:
    space = NoiseSpace.create((1, 8, 8), None, False, False)
    rng, x, noise = (
        SampleRng.create(0, "test", torch.arange(50)),
        torch.full((50, 1, 8, 8), 0.5),
        torch.zeros(50, 64),
    )
    noise[:, 9] = -0.4
    order = shuffle(
        space,
        rng,
        torch.zeros(50, dtype=torch.int64),
        torch.zeros(50, dtype=torch.int64),
        weigh(space, x, noise),
    )
    assert (order[:, :3] == 9).any(1).float().mean() > 0.8  # evenly it would be 3 in 64


def test_a_grown_noise_goes_on_where_the_coarse_one_ended() -> None:
    space = NoiseSpace.create((1, 8, 8), 2, True, False)
    assert space.levels == ((2, 2), (4, 4), (8, 8))
    x, noise = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 84)
    noise[:, :4] = 0.1
    before = space.image(x, noise.unsqueeze(1))
    assert torch.allclose(before, torch.full_like(before, 0.6))
    noise[0, 4 + 16 + 9] = -0.2  # row 1, column 1 of the finest level
    changed = (space.image(x, noise.unsqueeze(1)) - before)[0, 0, 0]
    assert changed.count_nonzero() == 1
    assert changed[1, 1] == pytest.approx(-0.2, abs=1e-6)
    rng, rows = SampleRng.create(0, "test", torch.arange(3)), torch.tensor([0, 1, 7])
    drawn = shuffle(space, rng, rows, rows, None)[:, :4]
    assert [
        (int(row.min()) >= low, int(row.max()) < high)
        for row, low, high in zip(drawn, (0, 4, 20), (4, 20, 84), strict=True)
    ] == [(True, True)] * 3


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"learning_rate": 0}, {"update": "sgd"}, {"grow_every": 5}, {"confidence": -1}],
)
def test_what_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ZOO(**bad)


def test_coordinates_of_equal_draws_come_in_their_order() -> None:
    class Even:
        def uniform(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
            return (torch.arange(shape[0]) % 3 / 4).expand(2, -1)

        def stream(self, which: object) -> Self:
            return self

    space = NoiseSpace.create((1, 30, 30), None, grows=False, tanh=False)
    order = shuffle(
        space, cast(SampleRng, Even()), torch.zeros(2).long(), torch.zeros(2).long(), None
    )
    expected = [i for third in (2, 1, 0) for i in range(900) if i % 3 == third]
    assert order.tolist() == [expected] * 2
