"""What every Foolbox attack in the catalogue promises here: what the attacks of our own promise."""

import dataclasses
import logging
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rbl_attacks.foolbox.catalogue import catalogue, load
from rbl_attacks.foolbox.table import ENTRIES
from robustbench_lite.errors import AttackError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.query import Access
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined
from tests.contract.test_attacks import EPS, network, take, task

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:foolbox", "ignore::DeprecationWarning:eagerpy"
)
ROWS = 6
SHAPE = (3, 6, 9)
#: Hyper-parameters that keep the suite quick; the others run with 5 steps, or their defaults where
#: they have none.
PARAMS: dict[str, dict[str, Any]] = {
    "EADAttack": {"steps": 5, "binary_search_steps": 2, "initial_const": 0.1},
    "HopSkipJumpAttack": {"steps": 1, "initial_gradient_eval_steps": 10},
    "L2CarliniWagnerAttack": {
        "steps": 8,
        "binary_search_steps": 2,
        "initial_const": 1.0,
        "stepsize": 0.05,
    },
    "L2DeepFoolAttack": {"candidates": 4},
    "LinfDeepFoolAttack": {"candidates": 4},
    "LinearSearchBlendedUniformNoiseAttack": {"directions": 30, "steps": 5},
    "SaltAndPepperNoiseAttack": {"steps": 15},
}
#: Hundreds of queries a row, whatever their parameters.
SLOW = re.compile("Pointwise|BrendelBethge")
CASES = [
    pytest.param(
        name,
        norm,
        goal,
        id=f"{name}-{norm}-{goal}",
        marks=[pytest.mark.slow] if SLOW.search(name) else [],
    )
    for name in catalogue()
    for norm in sorted(ENTRIES[name].norms)
    for goal in ("untargeted", "random")
    if goal == "untargeted" or ENTRIES[name].targeted
]


def global_generators() -> tuple[Any, ...]:
    """The states of the generators that a search must leave alone."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]


def built(name: str) -> DrivenAttack:
    attack: type[Any] = load(name)
    fields = {field.name for field in dataclasses.fields(attack)}
    quick = {"steps": 5} if "steps" in fields else {"repeats": 4} if "repeats" in fields else {}
    made: DrivenAttack = attack(**PARAMS.get(name, quick))
    return made


def search(
    name: str,
    norm: str,
    what: Task,
    model: nn.Module,
    eps: float | str | None = "of the norm",
    batch_size: int = 64,
    seed: int = 0,
    **options: Any,
) -> SearchOutcome:
    threat = ThreatModel.parse(norm, EPS[norm] if eps == "of the norm" else eps)
    engine = DrivenEngine(
        built(name), Passes(DefendedModel(model), batch_size), threat, seed=seed, **options
    )
    return joined(engine.search(what))


@pytest.mark.parametrize(("name", "norm", "goal"), CASES)
class TestEveryFoolboxAttack:
    def test_what_it_finds_is_adversarial_in_the_ball_and_counted(
        self, name: str, norm: str, goal: str
    ) -> None:
        model, threat = network(SHAPE), ThreatModel.parse(norm, EPS[norm])
        what = task(model, goal, SHAPE, rows=ROWS)
        generators = global_generators()
        result = search(name, norm, what, model)
        assert (threat.excess(result.x_adv, what.x) <= 0).all()
        assert torch.equal(result.x_adv[~result.found], what.x[~result.found])
        label = model(result.x_adv).argmax(1)
        assert torch.where(what.target >= 0, label == what.target, label != what.y)[
            result.found
        ].all()
        assert (result.forward >= 1).all()
        assert built(name).access == Access.GRADIENT or not result.backward.any()
        assert generators == global_generators()

    def test_batch_size_order_and_shards_do_not_change_verdicts_or_queries(
        self, name: str, norm: str, goal: str
    ) -> None:
        model = network()
        what = task(model, goal, rows=ROWS)
        expected = search(name, norm, what, model)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
        shard = torch.arange(1, ROWS, 3)
        for batch_size, rows in ((4, order), (1, shard)):
            found = search(name, norm, take(what, rows), model, batch_size=batch_size)
            for column in ("found", "forward", "backward"):
                assert torch.equal(getattr(expected, column)[rows], getattr(found, column)), column

    @pytest.mark.parametrize("budget", [1, 5])
    def test_a_query_budget_is_never_exceeded(
        self, name: str, norm: str, goal: str, budget: int
    ) -> None:
        model = network()
        result = search(name, norm, task(model, goal, rows=4), model, query_budget=budget)
        assert (result.forward + result.backward <= budget).all()


@pytest.mark.parametrize(
    "name", ["DDNAttack", "L2DeepFoolAttack", "L2FMNAttack", "NewtonFoolAttack", "BoundaryAttack"]
)
def test_an_attack_for_the_nearest_point_needs_no_eps_and_breaks_nearly_all(name: str) -> None:
    model = network()
    assert (
        search(name, "l2", task(model, "untargeted", rows=ROWS), model, eps=None)
        .found.float()
        .mean()
        > 0.8
    )


@pytest.mark.parametrize(
    ("name", "norm", "eps"), [("LinfPGD", "linf", 0.3), ("BoundaryAttack", "l2", None)]
)
def test_other_seeds_draw_other_numbers(name: str, norm: str, eps: float | None) -> None:
    model = network()
    what = task(model, "untargeted", rows=ROWS)
    first, second = (search(name, norm, what, model, eps=eps, seed=seed) for seed in (0, 1))
    assert first.found.any()
    assert not torch.equal(first.x_adv, second.x_adv)


@pytest.mark.filterwarnings("ignore:LinearSearch.* failed to draw:UserWarning")
@pytest.mark.parametrize("name", ["BoundaryAttack", "HopSkipJumpAttack", "PointwiseAttack"])
def test_a_start_that_is_not_found_is_no_success_and_no_error(name: str) -> None:
    model: Any = network()
    model[-1].weight.data.zero_()
    model[-1].bias.data = torch.eye(10)[3]
    handlers = list(logging.getLogger().handlers)
    result = search(name, "l2", task(model, "untargeted", rows=1), model, eps=None)
    assert not result.found.any()
    assert (result.forward > 1).all()
    assert logging.getLogger().handlers == handlers


def test_a_mistake_inside_of_foolbox_is_an_error_that_names_the_sample() -> None:
    model = network(classes=2)
    found: type[Any] = load("L2DeepFoolAttack")
    attack = found(candidates=1)
    threat = ThreatModel.parse("l2", None)
    with pytest.raises(
        AttackError, match="foolbox:L2DeepFoolAttack failed on sample 0: ValueError: expected"
    ):
        next(
            DrivenEngine(attack, Passes(DefendedModel(model), 8), threat).search(
                task(model, "untargeted", rows=2)
            )
        )
