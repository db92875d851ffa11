"""On a linear model the nearest adversarial lies at margin / dual norm of the weights: known in
closed form.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.boundary.attack import Boundary
from rbl_attacks.carlini_wagner.attack import CarliniWagner
from rbl_attacks.fgsm import FGSM
from rbl_attacks.pgd import PGD
from rbl_attacks.zoo.attack import ZOO
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.task import Task
from robustbench_lite.threat import NORMS, ThreatModel
from tests.conftest import judged

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
ROWS = 12


def linear(
    classes: int, norm: str = "l2", push: float = 0.0
) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A model, images well inside of the bounds, labels, nearest other classes and the exact
    distances to those.

    ``push`` is how far (in L2) the images are moved into their own class.
    """
    generator = torch.Generator().manual_seed(classes)
    layer = nn.Linear(36, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 36, generator=generator))
        layer.bias.copy_(
            -0.5 * layer.weight.sum(1) + 0.01 * torch.randn(classes, generator=generator)
        )
    model = nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)
    # Near the middle: no boundary is so far away that the bounds of the image cut the shortest way.
    x = 0.5 + 0.03 * torch.randn(ROWS, 1, 6, 6, generator=generator)
    y = model(x).argmax(1)
    x = x + push * nn.functional.normalize(layer.weight[y]).reshape(x.shape)
    logits = model(x)
    gap = logits.gather(1, y[:, None]) - logits  # (B, K)
    steep = NORMS[DUAL[norm]].size(
        (layer.weight[y][:, None] - layer.weight).flatten(0, 1).reshape(-1, 1, 6, 6)
    )
    distance, nearest = (
        (gap / steep.reshape(ROWS, classes)).scatter(1, y[:, None], float("inf")).min(1)
    )
    return model, x, y, nearest, distance


def found(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    norm: str,
    eps: float | None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    return judged(
        attack,
        model,
        Task(x, y, target, torch.arange(len(y))),
        ThreatModel.parse(norm, eps),
        batch_size,
    )


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_breaks_a_linear_model_just_above_the_distance_and_never_below(
    classes: int, norm: str
) -> None:
    # Sent to the nearest class: the most likely other class, which the untargeted loss climbs to,
    # can be farther away.
    model, x, y, nearest, distance = linear(classes, norm)
    for row in range(ROWS):
        eps = float(distance[row])
        attack = PGD(steps=100, step_size=eps / 5, loss="margin")
        one = (model, x[row : row + 1], y[row : row + 1], nearest[row : row + 1], norm)
        assert found(attack, *one, eps * 1.02)[0].all()
        assert not found(attack, *one, eps * 0.98)[0].any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fgsm_breaks_a_binary_linear_model_just_above_the_distance_and_never_below(
    norm: str,
) -> None:
    model, x, y, nearest, distance = linear(2, norm)
    for row in range(ROWS):
        one = (model, x[row : row + 1], y[row : row + 1], nearest[row : row + 1], norm)
        for sweep in (True, False):
            assert found(FGSM(sweep=sweep), *one, float(distance[row]) * 1.02)[0].all()
            assert not found(FGSM(sweep=sweep), *one, float(distance[row]) * 0.98)[0].any()


@pytest.mark.parametrize("classes", [2, 10])
def test_boundary_comes_within_five_percent_of_the_distance(classes: int) -> None:
    model, x, y, _, distance = linear(classes)
    hits, size = found(Boundary(steps=3000), model, x, y, torch.full_like(y, -1), "l2", None)
    assert hits.all()
    assert (size >= distance * (1 - 1e-4)).all()
    assert (size <= distance * 1.05).all()


# An Linf search ends a step of Adam away from its tau: there the step is shorter, and the share
# still larger.
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    ("norm", "share", "learning_rate"), [("l2", 0.02, 0.01), ("linf", 0.04, 0.002)]
)
def test_carlini_wagner_comes_within_a_few_percent_of_the_distance(
    norm: str, share: float, learning_rate: float, classes: int
) -> None:
    # Sent to the nearest class, as pgd is, and from about as far as in pictures: a step of Adam has
    # a fixed length.
    model, x, y, nearest, distance = linear(classes, norm, push=0.4)
    hits, size = found(
        CarliniWagner(steps=200, learning_rate=learning_rate), model, x, y, nearest, norm, None
    )
    assert hits.all()
    assert (size >= distance * (1 - 1e-4)).all()
    assert (size <= distance * (1 + share)).all()


@pytest.mark.parametrize(
    ("classes", "update"),
    [
        (2, {"learning_rate": 5e-4}),
        (10, {"learning_rate": 5e-4}),
        (2, {"update": "newton", "learning_rate": 0.3}),
        (2, {"tanh": True, "learning_rate": 2e-3}),
    ],
)
def test_zoo_comes_within_five_percent_of_the_distance(
    classes: int, update: dict[str, Any]
) -> None:
    # Sent to the nearest class, as pgd is.
    model, x, y, nearest, distance = linear(classes)
    attack = ZOO(steps=200, coordinates=36, **update)
    hits, size = found(attack, model, x, y, nearest, "l2", None, batch_size=1024)
    assert hits.all()
    assert (size >= distance * (1 - 1e-4)).all()
    assert (size <= distance * 1.05).all()
