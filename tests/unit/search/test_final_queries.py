"""A last point is not asked about twice: where nothing depends on the answer, the judge's pass is its one query."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.fgsm import FGSM
from robustbench_lite.errors import ModelError
from robustbench_lite.search.attack import Access, Answer, Attack, Query, State
from robustbench_lite.search.defended import DefendedModel
from robustbench_lite.search.engine import Engine, Outcome, Task
from robustbench_lite.search.forward import Passes
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Shifted(State):
    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Brighten(Attack):
    """Claims one point, ``shift`` brighter than the image."""

    name = "brighten"
    access = Access.LABELS
    norms = frozenset({"linf"})
    kind = "fixed_eps"
    paper = "none"

    shift: float = 0.1
    restarts: int = 1
    final: bool = True

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> Shifted:
        return Shifted(torch.zeros_like(y, dtype=torch.bool), x)

    def ask(self, state: Shifted) -> Query:
        return Query.labels((state.x + self.shift).clamp(0, 1), final=self.final)

    def tell(self, state: Shifted, answer: Answer) -> Shifted:
        return state.replace(finished=torch.ones_like(state.finished))


class Brightness(nn.Module):
    """Class 1 when the mean is above a half; counts the rows that it is shown."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def search(attack: Attack, model: nn.Module, **options: object) -> Outcome:
    x = torch.linspace(0.3, 0.49, 20).reshape(-1, 1, 1, 1).expand(-1, 1, 3, 4).contiguous()
    zeros = torch.zeros(20, dtype=torch.int64)
    engine = Engine(attack, Passes(DefendedModel(model), 32), ThreatModel.parse("linf", 0.1), **options)  # type: ignore[arg-type]
    whole, *rest = engine.search(Task(x, zeros, zeros - 1, torch.arange(20)))
    for outcome in rest:
        whole = whole.append(outcome)
    return whole


def test_the_point_is_handed_over_unasked_and_its_query_is_counted() -> None:
    model = Brightness()
    outcome = search(Brighten(), model)
    assert model.rows == 0
    assert outcome.unasked.all()
    assert outcome.claimed.all()
    assert not outcome.found.any()
    assert (outcome.forward == 1).all()
    assert (outcome.size - 0.1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("attack", "options"),
    [(Brighten(final=False), {}), (Brighten(restarts=2), {}), (Brighten(), {"free_looks": False})],
    ids=["not final", "may start anew", "no look is free"],
)
def test_where_something_depends_on_the_answer_the_model_is_asked(attack: Attack, options: dict[str, bool]) -> None:
    model = Brightness()
    outcome = search(attack, model, **options)
    assert model.rows > 0
    assert not outcome.unasked.any()
    assert 0 < outcome.found.sum() < 20


def test_a_row_that_cannot_pay_claims_nothing() -> None:
    outcome = search(Brighten(), Brightness(), query_budget=0)
    assert not outcome.claimed.any()
    assert (outcome.forward == 0).all()


@pytest.mark.parametrize("defense", ["none", "gaussian_noise sigma=0.02", "feature_squeezing bits=4"])
def test_a_record_does_not_show_who_made_the_last_query(network: nn.Module, batch: tuple[Tensor, Tensor], defense: str) -> None:
    left, asked = (
        rbl.evaluate(network, batch, attack(sweep=False), defenses=defense, eps=0.05).cells[0] for attack in (FGSM, Asking)
    )
    for field in ("robust", "distance", "forward_queries", "backward_queries"):
        np.testing.assert_array_equal(getattr(left, field), getattr(asked, field))
    assert 0 < left.robust.sum() < left.clean_correct.sum()
    assert left.record.outcomes == asked.record.outcomes  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class Asking(FGSM):
    """FGSM that wants to hear how its last point did."""

    def ask(self, state: State) -> Query:
        return dataclasses.replace(super().ask(state), final=False)  # type: ignore[arg-type]


def test_a_model_that_returns_nan_at_the_last_point_is_an_error_and_not_a_robust_sample() -> None:
    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([0.5 - mean, torch.where(mean > 0.58, float("nan"), mean - 0.5)], 1)

    x = torch.full((40, 1, 3, 4), 0.4)
    with pytest.raises(ModelError, match="NaN or inf near sample 0"):
        rbl.evaluate(Fragile().eval(), (x, torch.zeros(40, dtype=torch.int64)), FGSM(sweep=False), eps=0.2)
