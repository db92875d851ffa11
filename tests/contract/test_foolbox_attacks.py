"""What every Foolbox attack in the catalogue promises here: what the attacks of our own promise."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from rbl_attacks.foolbox_catalogue import ENTRIES, catalogue, load
from robustbench_lite.search.attack import Access
from robustbench_lite.search.defended import DefendedModel
from robustbench_lite.search.driven import DrivenEngine
from robustbench_lite.search.forward import Passes
from robustbench_lite.threat import ThreatModel
from tests.contract.test_attacks import EPS, network, take, task

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:foolbox", "ignore::DeprecationWarning:eagerpy")
ROWS = 8
#: Hyper-parameters that keep the suite quick; the others run with 5 steps, or their defaults where they have none.
PARAMS = {
    "EADAttack": {"steps": 5, "binary_search_steps": 3, "initial_const": 0.1},
    "HopSkipJumpAttack": {"steps": 1, "initial_gradient_eval_steps": 10},
    "L2CarliniWagnerAttack": {"steps": 10, "binary_search_steps": 3, "initial_const": 1.0, "stepsize": 0.05},
    "LinearSearchBlendedUniformNoiseAttack": {"directions": 30, "steps": 10},
    "SaltAndPepperNoiseAttack": {"steps": 30},
}
#: Hundreds of queries a row, whatever their parameters.
SLOW = ("PointwiseAttack", "L0BrendelBethgeAttack", "L1BrendelBethgeAttack", "L2BrendelBethgeAttack")
SLOW += ("LinfinityBrendelBethgeAttack",)
CASES = [
    pytest.param(name, norm, goal, id=f"{name}-{norm}-{goal}", marks=[pytest.mark.slow] if name in SLOW else [])
    for name in catalogue()
    for norm in sorted(ENTRIES[name].norms)
    for goal in ("untargeted", "random")
    if goal == "untargeted" or ENTRIES[name].targeted
]


def built(name):
    attack = load(name)
    fields = {field.name for field in dataclasses.fields(attack)}
    quick = {"steps": 5} if "steps" in fields else {"repeats": 8} if "repeats" in fields else {}
    return attack(**PARAMS.get(name, quick))


def search(name, norm, what, model, eps="of the norm", batch_size=64, seed=0, **options):
    threat = ThreatModel.parse(norm, EPS[norm] if eps == "of the norm" else eps)
    engine = DrivenEngine(built(name), Passes(DefendedModel(model), batch_size), threat, seed=seed, **options)
    first, *rest = engine.search(what)
    for other in rest:
        first = first.append(other)
    return first.select(first.position.argsort())


@pytest.mark.parametrize(("name", "norm", "goal"), CASES)
class TestEveryFoolboxAttack:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9)], ids=str)
    def test_what_it_finds_is_adversarial_in_the_ball_and_counted(self, name, norm, goal, shape):
        model, threat = network(shape), ThreatModel.parse(norm, EPS[norm])
        what = task(model, goal, shape, rows=ROWS)
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
        result = search(name, norm, what, model)
        assert (threat.excess(result.x_adv, what.x) <= 0).all()
        assert torch.equal(result.x_adv[~result.found], what.x[~result.found])
        label = model(result.x_adv).argmax(1)
        assert torch.where(what.target >= 0, label == what.target, label != what.y)[result.found].all()
        assert (result.forward >= 1).all()
        assert built(name).access == Access.GRADIENT or not result.backward.any()
        assert generators == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())

    def test_batch_size_order_and_shards_do_not_change_verdicts_or_queries(self, name, norm, goal):
        model = network()
        what = task(model, goal, rows=ROWS)
        expected = search(name, norm, what, model)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
        shard = torch.arange(1, ROWS, 3)
        for batch_size, rows in ((1, order), (7, shard)):
            found = search(name, norm, take(what, rows), model, batch_size=batch_size)
            for column in ("found", "forward", "backward"):
                assert torch.equal(getattr(expected, column)[rows], getattr(found, column)), column

    @pytest.mark.parametrize("budget", [1, 5])
    def test_a_query_budget_is_never_exceeded(self, name, norm, goal, budget):
        model = network()
        result = search(name, norm, task(model, goal, rows=4), model, query_budget=budget)
        assert (result.forward + result.backward <= budget).all()


@pytest.mark.parametrize("name", ["DDNAttack", "L2DeepFoolAttack", "L2FMNAttack", "NewtonFoolAttack", "BoundaryAttack"])
def test_an_attack_for_the_nearest_point_needs_no_eps_and_breaks_nearly_all(name):
    model = network()
    assert search(name, "l2", task(model, "untargeted", rows=ROWS), model, eps=None).found.float().mean() > 0.8


@pytest.mark.parametrize("name", ["LinfPGD", "DDNAttack", "SaltAndPepperNoiseAttack"])
def test_other_seeds_draw_other_numbers(name):
    model = network()
    what = task(model, "untargeted", rows=ROWS)
    norm = sorted(load(name).norms)[-1]
    first, second = (search(name, norm, what, model, seed=seed) for seed in (0, 1))
    assert name == "DDNAttack" or not torch.equal(first.x_adv, second.x_adv)
