"""``foolbox:NAME`` against Foolbox run by hand, against our own attacks, and against distances in
closed form.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.foolbox import catalogue
from rbl_attacks.pgd import PGD
from robustbench_lite.machine.generators import kept_generators, seed_generators
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, untargeted
from tests.known_answer.test_linear_models import linear
from tests.parity.test_foolbox import EPS, case, peer

__all__ = ["case"]  # a fixture
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:foolbox", "ignore::DeprecationWarning:eagerpy"
)
NAMES = [
    "L2DeepFoolAttack",
    "DDNAttack",
    "L2CarliniWagnerAttack",
    "L2FMNAttack",
    "BoundaryAttack",
    "NewtonFoolAttack",
]
OPTIONS: dict[str, dict[str, Any]] = {
    "L2CarliniWagnerAttack": {
        "steps": 20,
        "binary_search_steps": 4,
        "initial_const": 0.1,
        "stepsize": 0.05,
    }
}


def built(name: str, **options: Any) -> DrivenAttack:
    attack: type[Any] = catalogue.load(name)
    made: DrivenAttack = attack(**options)
    return made


def search(
    attack: PGD | DrivenAttack, model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float | None
) -> SearchOutcome:
    passes, threat = Passes(DefendedModel(model), 64), ThreatModel.parse(norm, eps)
    engine = (
        Engine(attack, passes, threat)
        if isinstance(attack, PGD)
        else DrivenEngine(attack, passes, threat)
    )
    return joined(engine.search(untargeted(x, y)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_the_image_gives_the_verdicts_of_our_own(
    case: tuple[nn.Module, Tensor, Tensor], norm: str
) -> None:
    model, x, y = case
    name = {"linf": "LinfPGD", "l2": "L2PGD"}[norm]
    theirs = search(
        built(name, steps=10, abs_stepsize=0.02, random_start=False),
        model,
        x,
        y,
        norm,
        EPS[norm] / 4,
    )
    ours = search(
        PGD(steps=10, step_size=0.02, random_start=False), model, x, y, norm, EPS[norm] / 4
    )
    assert 0 < ours.found.sum() < len(y)
    assert torch.equal(theirs.found, ours.found)
    # Theirs asks the gradient at the image and at every step but the last point; so does ours,
    # which ends a row as early.
    assert torch.equal(theirs.forward, ours.forward)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_is_at_least_as_near_as_what_foolbox_returns(
    case: tuple[nn.Module, Tensor, Tensor], name: str
) -> None:
    model, x, y = case
    options = OPTIONS.get(name, {"steps": 30})
    ours = search(built(name, **options), model, x, y, "l2", None)
    attack, wrapped = peer(name, model, **options)
    distances = []
    with kept_generators():
        seed_generators((0, 0))
        for row in range(len(y)):
            found = attack.run(wrapped, x[row : row + 1].clone(), y[row : row + 1])
            size = (found - x[row]).norm()
            distances.append(float(size) if model(found).argmax(1) != y[row] else float("inf"))
    theirs = torch.tensor(distances)
    assert theirs.isfinite().any()
    if name == "BoundaryAttack":  # draws its own numbers
        assert ours.size.median() <= 1.5 * theirs.median()
    else:
        assert (ours.size <= theirs + 1e-4).all()


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    ("name", "norm"), [("L2DeepFoolAttack", "l2"), ("LinfDeepFoolAttack", "linf")]
)
def test_deepfool_ends_within_two_percent_of_the_distance_to_a_linear_boundary(
    name: str, norm: str, classes: int
) -> None:
    model, x, y, _, distance = linear(classes, norm)
    found = search(built(name, overshoot=0.01), model, x, y, norm, None)
    assert found.found.all()
    assert (found.size >= distance * (1 - 1e-4)).all()
    assert (found.size <= (distance + 1e-4) * 1.02).all()  # Foolbox lengthens each step by 1e-4
