"""What every registered attack promises, whatever its paper."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search.cost import Cost
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.oracle import Oracle, Reply
from robustbench_lite.search.query import Access, Query
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, present

#: Hyper-parameters that keep the suite quick; an attack that is not named here runs with its
#: defaults.
PARAMS: dict[str, dict[str, Any]] = {
    "carlini_wagner": {"steps": 20, "search_steps": 4, "initial_const": 0.1, "learning_rate": 0.05},
    "apgd": {"steps": 8, "restarts": 2},
    "pgd": {"steps": 5, "restarts": 2},
    "ddn": {"steps": 12},
    "fab": {"steps": 6, "targets": "top:2"},
    "fmn": {"steps": 12},
    "pdpgd": {"steps": 15},
    "sparse_rs": {"queries": 60},
    "sigma_zero": {"steps": 15},
    "boundary": {"steps": 30},
    "rays": {"queries": 150, "tolerance": 0.01},
    "square": {"queries": 60, "restarts": 2},
    "hop_skip_jump": {"steps": 3, "draws": 16},
    "patch": {
        "universal": False,
        "steps": 6,
        "draws": 2,
    },  # the universal one: tests/unit/attacks/patch/test_attack.py
    "one_pixel": {"population": 24, "generations": 8},
    "zoo": {
        "steps": 12,
        "coordinates": 12,
        "search_steps": 2,
        "initial_const": 1.0,
        "learning_rate": 0.05,
    },
}
EPS = {"linf": 0.08, "l2": 0.6, "l1": 4.0, "l0": 3.0}
CASES = [
    pytest.param(name, norm, goal, id=f"{name}-{norm}-{goal}")
    for name in registry.names("attack")
    for norm in sorted(registry.load("attack", name).norms)
    for goal in ("untargeted", "random")
    if goal == "untargeted" or registry.load("attack", name).targeted
]
SHAPES = [(1, 8, 8), (3, 6, 9), (1, 9, 5)]


def network(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> nn.Module:
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * shape[1] * shape[2], classes),
    )
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


def task(
    model: nn.Module, goal: str, shape: tuple[int, int, int] = (1, 8, 8), rows: int = 40
) -> Task:
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(5))
    logits = model(x)
    y = logits.argmax(1)
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(6))
    target = ThreatModel.parse("linf", None, goal).goal.targets(logits, y, uniform)
    return Task(x, y, target, torch.arange(rows))


def take(whole: Task, rows: slice | Tensor) -> Task:
    return Task(whole.x[rows], whole.y[rows], whole.target[rows], whole.index[rows])


def search(
    name: str,
    norm: str,
    model: nn.Module,
    what: Task,
    batch_size: int = 64,
    eps: float | str | None = "of the norm",
    seed: int = 0,
    **options: Any,
) -> SearchOutcome:
    attack = registry.load("attack", name)(**PARAMS.get(name, {}))
    threat = ThreatModel.parse(norm, EPS[norm] if eps == "of the norm" else eps)
    engine = Engine(
        attack, Passes(DefendedModel(model), batch_size, fast=True), threat, seed=seed, **options
    )
    return joined(engine.search(what))


def assert_same(first: SearchOutcome, second: SearchOutcome) -> None:
    assert torch.equal(first.found, second.found)
    assert torch.equal(first.forward, second.forward)
    assert torch.equal(first.backward, second.backward)


def check(name: str, norm: str, model: nn.Module, what: Task, **options: Any) -> SearchOutcome:
    """The outcome, after holding it against what any outcome must be."""
    result, threat = search(name, norm, model, what, **options), ThreatModel.parse(norm, EPS[norm])
    assert result.position.tolist() == list(range(len(what.y)))
    assert result.x_adv.shape == what.x.shape
    assert result.x_adv.dtype == torch.float32
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert (threat.excess(result.x_adv, what.x) <= 0).all()
    assert torch.equal(result.x_adv[~result.found], what.x[~result.found])
    won = torch.where(
        what.target >= 0,
        model(result.x_adv).argmax(1) == what.target,
        model(result.x_adv).argmax(1) != what.y,
    )
    assert won[result.found].all()
    assert (result.forward >= 1).all()
    assert registry.load("attack", name).access == Access.GRADIENT or not result.backward.any()
    return result


@pytest.mark.parametrize(("name", "norm", "goal"), CASES)
class TestEveryAttack:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_what_it_finds_is_adversarial_in_the_ball_and_in_bounds(
        self, name: str, norm: str, goal: str, shape: tuple[int, int, int]
    ) -> None:
        model = network(shape)
        check(name, norm, model, task(model, goal, shape, rows=12))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes_are_enough(self, name: str, norm: str, goal: str, classes: int) -> None:
        model = network(classes=classes)
        check(name, norm, model, task(model, goal, rows=12))

    def test_it_breaks_what_a_large_ball_contains(self, name: str, norm: str, goal: str) -> None:
        model = network()
        eps = None if registry.load("attack", name).kind == "minimal_distance" else EPS[norm] * 4
        least = 0.5 if goal == "untargeted" else 0.1
        if (name, norm) == ("fgsm", "l1"):
            least = (
                0.0  # one sparse step moves one of 64 pixels by at most 1, however large the ball
            )
        assert search(name, norm, model, task(model, goal), eps=eps).found.float().mean() > least

    def test_an_accelerator_that_never_looks_at_values_finds_the_same(
        self, name: str, norm: str, goal: str
    ) -> None:
        model = network()
        what = task(model, goal)
        assert_same(
            search(name, norm, model, what, free_looks=False), search(name, norm, model, what)
        )

    def test_one_sample_is_enough(self, name: str, norm: str, goal: str) -> None:
        model = network()
        check(name, norm, model, task(model, goal, rows=1))

    def test_batch_size_order_and_shards_do_not_change_verdicts_or_queries(
        self, name: str, norm: str, goal: str
    ) -> None:
        model = network()
        what = task(model, goal, rows=20)
        expected = search(name, norm, model, what, batch_size=64)
        for batch_size in (1, 7, 250):
            assert_same(expected, search(name, norm, model, what, batch_size=batch_size))
        order = torch.randperm(len(what.y), generator=torch.Generator().manual_seed(1))
        assert_same(expected.select(order), search(name, norm, model, take(what, order)))
        shards = [
            search(name, norm, model, take(what, torch.arange(start, len(what.y), 2)))
            for start in (0, 1)
        ]
        for start, shard in enumerate(shards):
            assert_same(expected.select(torch.arange(start, len(what.y), 2)), shard)

    def test_the_same_seed_gives_the_same_points(self, name: str, norm: str, goal: str) -> None:
        model = network()
        what = task(model, goal)
        first, second = (search(name, norm, model, what) for _ in range(2))
        assert torch.equal(first.x_adv, second.x_adv)
        assert_same(first, second)

    def test_model_images_and_global_generator_are_left_alone(
        self, name: str, norm: str, goal: str
    ) -> None:
        model = network()
        what = task(model, goal)
        before, images, state = (
            [p.clone() for p in model.parameters()],
            what.x.clone(),
            torch.get_rng_state(),
        )
        search(name, norm, model, what)
        assert all(
            torch.equal(p, b) and p.grad is None
            for p, b in zip(model.parameters(), before, strict=True)
        )
        assert torch.equal(what.x, images)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("budget", [1, 5, 20])
    def test_a_query_budget_is_never_exceeded(
        self, name: str, norm: str, goal: str, budget: int
    ) -> None:
        model = network()
        result = search(name, norm, model, task(model, goal), query_budget=budget)
        assert (result.forward + result.backward <= budget).all()


@pytest.mark.parametrize(
    ("name", "norm", "eps"), [("zoo", "l2", "of the norm"), ("one_pixel", "l0", 1.0)]
)
@pytest.mark.parametrize("shape", SHAPES)
class TestNeighbours:
    def test_points_are_where_the_query_says(
        self,
        name: str,
        norm: str,
        eps: float | str,
        shape: tuple[int, int, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        answer, seen = Oracle.answer, []

        def checked(oracle: Oracle, query: Query, rows: Points, cost: Cost) -> Reply:
            base, place = present(query.beside)
            differs = (query.points != base.unsqueeze(1)).any(2).flatten(2)  # (B, P, H W)
            assert not differs.scatter(2, place.unsqueeze(2), False).any()
            seen.append(differs.any())
            return answer(oracle, query, rows, cost)

        monkeypatch.setattr(Oracle, "answer", checked)
        model = network(shape)
        search(name, norm, model, task(model, "untargeted", shape), eps=eps)
        assert any(seen)

    def test_the_short_way_and_whole_passes_find_the_same(
        self,
        name: str,
        norm: str,
        eps: float | str,
        shape: tuple[int, int, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        model = network(shape)
        what = task(model, "untargeted", shape)
        assert (
            Passes(DefendedModel(model), 64, fast=True).incremental(shape, torch.device("cpu"))
            is not None
        )
        short = search(name, norm, model, what, eps=eps)
        monkeypatch.setattr(Passes, "incremental", lambda *_: None)
        assert_same(short, search(name, norm, model, what, eps=eps))
