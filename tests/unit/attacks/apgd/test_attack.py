"""Auto-PGD beside what is known of it: schedules, corners of linear models, ends of its climbs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.apgd.attack import APGD
from rbl_attacks.apgd.sparse import SparseWalk
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.lock_step import check_lock_step, craft
from robustbench_lite.search.query import Answer, Query
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, present


def linear(classes: int = 2) -> nn.Module:
    """Logits that are a linear function of 12 values."""
    layer = nn.Linear(12, classes).requires_grad_(False)
    generator = torch.Generator().manual_seed(classes)
    layer.weight.copy_(torch.randn(classes, 12, generator=generator))
    layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def images(rows: int = 30) -> Tensor:
    """Far enough from the bounds for any ball of 0.1."""
    generator = torch.Generator().manual_seed(1)
    return 0.3 + 0.4 * torch.rand(rows, 1, 3, 4, generator=generator)


def search(
    model: nn.Module, x: Tensor, eps: float, norm: str = "linf", **options: Any
) -> SearchOutcome:
    y = model(x).argmax(1)
    threat = ThreatModel.parse(norm, eps)
    engine = Engine(APGD(**options), Passes(DefendedModel(model), 8), threat)
    return joined(engine.search(Task(x, y, torch.full_like(y, -1), torch.arange(len(y)))))


class Flat(nn.Module):
    """Robust, with a loss that never rises."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :4] + torch.tensor([1.0, 0.3, 0.2, 0.1])


def asked(
    model: nn.Module, x: Tensor, threat: ThreatModel, start: Tensor | None = None, **options: Any
) -> list[Query]:
    """All queries about the rows of ``x``, none of which stops at a success."""
    attack = APGD(**options)
    y = model(x).argmax(1)
    rng = SampleRng.create(0, "apgd", torch.arange(len(x)))
    state = attack.init(x, y, threat, rng)
    if start is not None:
        state = attack.init_at(start, x, y, threat, rng)
    queries = []
    while not state.finished.all():
        query = attack.ask(state)
        points = query.points.clone().requires_grad_()
        logits = model(points)
        toward = torch.full_like(y, -1) if query.toward is None else query.toward
        losses = present(query.loss)(logits, y, toward)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
        labels = logits.argmax(1)
        answer = Answer(labels != y, labels, logits.detach(), gradient, losses.detach)
        state = attack.tell(state, answer)
        queries.append(query)
        assert attack.progress(state).max() <= 1
    return queries


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_finds_what_a_linear_model_has_in_the_ball_and_nothing_else(norm: str) -> None:
    model, x = linear(), images()
    dual = ThreatModel.parse(norm, 1.0).norm.dual_size(slope_of(model))
    away = lead(model, x).abs() / dual
    eps = float(away.median()) * 1.001
    found = search(model, x, eps, norm=norm, steps=30)
    assert found.found[away < eps * 0.99].all()
    assert not found.found[away > eps].any()
    assert (away < eps * 0.99).sum() > 5


@pytest.mark.parametrize("eps", [1.0, 2.0])
def test_in_l1_it_finds_what_a_linear_model_has_in_ball_and_box(eps: float) -> None:
    model, x = linear(), images()
    ahead = lead(model, x)
    # The most that the ball holds: the steepest values go to the bound, one after the other.
    down = -slope_of(model).flatten() * ahead.sign().unsqueeze(1)
    room = torch.where(down > 0, 1 - x.flatten(1), x.flatten(1))
    order = down.abs().argsort(dim=1, descending=True)
    room = room.gather(1, order)
    spent = (eps - (room.cumsum(1) - room)).clamp_min(0).minimum(room)
    most = (spent * down.abs().gather(1, order)).sum(1)
    found = search(model, x, eps, norm="l1", steps=100)
    assert not found.found[most < ahead.abs()].any()
    # Two values that differ are both moved, and by as much: the paper's steps end a little short.
    assert found.found[most > 1.06 * ahead.abs()].all()
    assert found.found.sum() > 5


def slope_of(model: nn.Module) -> Tensor:
    """The gradient of z_0 - z_1, (1, 1, 3, 4)."""
    weight = model.get_parameter("1.weight")
    return (weight[0] - weight[1]).reshape(1, 1, 3, 4)


def lead(model: nn.Module, x: Tensor) -> Tensor:
    """z_0 - z_1, (B,)."""
    logits: Tensor = model(x)
    return logits[:, 0] - logits[:, 1]


def test_a_run_costs_its_steps_and_one_forward() -> None:
    found = search(Flat(), images(5), 0.1, steps=7)
    assert found.forward.tolist() == [8] * 5
    assert found.backward.tolist() == [7] * 5


def test_in_l1_three_radii_follow_one_another() -> None:
    x = torch.full((2, 1, 8, 8), 0.5)
    threat = ThreatModel.parse("l1", 2.0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    queries = asked(model, x, threat, steps=10)
    sizes = torch.stack([threat.norm.size(query.points - x) for query in queries])  # (13, B)
    assert len(queries) == 13
    explores = [bool(present(query.explores).all()) for query in queries]
    assert explores == [True] * 8 + [False] * 5
    for part, radius in ((slice(0, 4), 6.0), (slice(4, 8), 4.0), (slice(8, 13), 2.0)):
        assert (sizes[part] <= radius + 1e-4).all()
    assert (sizes[0] > 5.99).all()
    assert (sizes[8] > 1.99).all()


@pytest.mark.parametrize(
    ("steps", "lengths"), [(1, 1), (2, 2), (3, [1, 1, 1]), (10, [3, 3, 4]), (100, [30, 30, 40])]
)
def test_the_steps_of_the_radii_add_up(steps: int, lengths: Any) -> None:
    walk = SparseWalk(steps=steps, rho=0.75)
    every = walk.lengths(torch.arange(3)).tolist()
    if isinstance(lengths, int):
        assert walk.first_phase == 2
        lengths = [0, 0, lengths]
    assert every == lengths
    assert sum(every) == steps


def test_steps_are_halved_where_nothing_rises_and_not_before_the_checkpoint() -> None:
    attack, x = APGD(steps=100), images(2)
    y = torch.zeros(2, dtype=torch.int64)
    threat = ThreatModel.parse("linf", 0.1)
    state = attack.init(x, y, threat, SampleRng.create(0, "apgd", torch.arange(2)))
    zero = torch.zeros(2)
    still = Answer(zero.bool(), y, torch.zeros(2, 4), torch.zeros_like(x), lambda: zero)
    halved = []
    size = state.climb.step_size[0]
    assert size == pytest.approx(0.2)
    for number in range(100):
        state = attack.tell(state, still)
        if state.climb.step_size[0] != size:
            assert state.climb.step_size[0] == size / 2
            size = state.climb.step_size[0]
            halved.append(number)
    assert halved == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_lies_on_the_surface_of_the_ball(norm: str) -> None:
    threat = ThreatModel.parse(norm, 0.1)
    (first, *_) = asked(linear(), images(), threat, steps=1)
    torch.testing.assert_close(threat.norm.size(first.points - images()), torch.full((30,), 0.1))


def test_it_begins_where_it_is_told() -> None:
    x = images()
    start = x + 0.05
    queries = asked(linear(3), x, ThreatModel.parse("linf", 0.1), start, steps=2, targets="top:2")
    assert torch.equal(queries[0].points, x)
    assert torch.equal(queries[1].points, start)
    assert torch.equal(queries[4].points, start)


@pytest.mark.parametrize(("targets", "ranking"), [("top:3", 1), ("all", 1), ("malt:2", 3)])
def test_each_class_gets_all_steps_from_a_fresh_start(targets: str, ranking: int) -> None:
    found = search(Flat(), images(3), 0.1, steps=5, targets=targets)
    classes = 2 if targets == "malt:2" else 3
    assert found.forward.tolist() == [ranking + 6 * classes] * 3
    queries = asked(linear(4), images(3), ThreatModel.parse("linf", 0.1), steps=5, targets=targets)
    firsts = [queries[ranking + 6 * number].points for number in range(classes)]
    assert not torch.equal(firsts[0], firsts[1])
    toward = torch.stack([present(query.toward) for query in queries[ranking:]])[::6]
    assert all(len(set(row)) == classes for row in toward.T.tolist())


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
@pytest.mark.parametrize("targets", ["none", "top:9", "malt:9"])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_any_loss_and_targets_break_a_weak_model(
    loss: str, targets: str, classes: int, norm: str
) -> None:
    eps = {"linf": 0.3, "l2": 1.2, "l1": 4.0}[norm]
    found = search(
        linear(classes), images(10), eps, norm=norm, loss=loss, targets=targets, steps=10
    )
    assert found.found.all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_constant_logits_are_no_error(norm: str) -> None:
    for targets in ("none", "malt:2"):
        for loss in ("ce", "dlr", "margin"):
            found = search(Flat(), images(2), 0.1, norm=norm, steps=4, loss=loss, targets=targets)
            assert not found.found.any()


def test_an_eps_of_zero_is_no_error() -> None:
    for norm in ("linf", "l2", "l1"):
        assert not search(linear(), images(4), 0.0, norm=norm, steps=4).found.any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targets", ["none", "top:2"])
def test_training_gets_a_last_point_in_the_ball_with_a_higher_loss(norm: str, targets: str) -> None:
    eps = {"linf": 0.1, "l2": 0.3, "l1": 1.0}[norm]
    attack, threat = APGD(steps=6, targets=targets), ThreatModel.parse(norm, eps)
    model, x = linear(4), images()
    y = model(x).argmax(1)
    check_lock_step(attack, threat, "training")
    x_adv = craft(model, attack, x, y, threat, index=torch.arange(len(x)), seed=0)
    assert (threat.excess(x_adv, x) <= 0).all()
    before = nn.functional.cross_entropy(model(x), y)
    assert nn.functional.cross_entropy(model(x_adv), y) > before + 0.1


def test_a_goal_that_names_the_class_leaves_no_choice() -> None:
    with pytest.raises(UsageError, match="apgd targets=none"):
        APGD(targets="top:3").check(ThreatModel.parse("linf", 0.1, "random"))
    APGD().check(ThreatModel.parse("linf", 0.1, "random"))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"restarts": 0}, {"loss": "mse"}, {"rho": 1.5}, {"targets": "some"}]
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"apgd (needs|knows)|targets can be"):
        APGD(**wrong)
