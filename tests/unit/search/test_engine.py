"""The engine and the oracle, on a model whose answers are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.pgd import PGD
from robustbench_lite.errors import AttackError, ModelError
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.losses import margin_loss
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.attack import Attack, State
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Access, Answer, Query
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, untargeted

LINF = ThreatModel.parse("linf", 0.1)


class Brightness(nn.Module):
    """Class 1 when the mean is above a half; counts the rows that it is shown."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def task(means: Sequence[float]) -> Task:
    x = torch.tensor(means).reshape(-1, 1, 1, 1).expand(-1, 1, 3, 4).contiguous()
    y = (x.flatten(1).mean(1) > 0.5).long()
    return untargeted(x, y, first=100)


def search(
    attack: Attack,
    what: Task,
    model: nn.Module | DefendedModel | None = None,
    batch_size: int = 32,
    threat: ThreatModel = LINF,
    **options: Any,
) -> SearchOutcome:
    defended = model if isinstance(model, DefendedModel) else DefendedModel(model or Brightness())
    whole = joined(Engine(attack, Passes(defended, batch_size), threat, **options).search(what))
    assert whole.position.tolist() == list(range(len(what.y)))
    return whole


@dataclass(frozen=True)
class Still(State):
    x: torch.Tensor
    step: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Probe(Attack):
    """Asks ``moves`` points, each ``shift`` brighter than the image, then finishes."""

    name = "probe"
    access = Access.LABELS
    norms = frozenset({"linf"})
    kind = "fixed_eps"
    paper = "none"

    shift: float = 0.0
    moves: int = 3
    wants: Access = Access.LABELS
    restarts: int = 1
    final: bool = False

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> Still:
        return Still(torch.zeros_like(y, dtype=torch.bool), x, torch.zeros_like(y))

    def ask(self, state: Still) -> Query:
        return Query(
            state.x + self.shift,
            self.wants,
            margin_loss if self.wants == Access.GRADIENT else None,
            final=self.final,
        )

    def tell(self, state: Still, answer: Answer) -> Still:
        assert answer.logits is None
        assert answer.gradient is None
        return state.replace(step=state.step + 1, finished=state.step + 1 >= self.moves)


MEANS = [0.41, 0.2, 0.59, 0.8, 0.45, 0.55, 0.3, 0.49, 0.1, 0.52, 0.65]


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_slots_that_are_refilled_give_the_outcomes_of_one_row_at_a_time(batch_size: int) -> None:
    attack, what = PGD(steps=8, step_size=0.02, restarts=2), task(MEANS)
    alone, together = (
        search(attack, what, batch_size=1),
        search(attack, what, batch_size=batch_size),
    )
    for name in ("found", "forward", "backward"):
        assert torch.equal(getattr(alone, name), getattr(together, name))
    torch.testing.assert_close(alone.x_adv, together.x_adv, atol=1e-6, rtol=0)
    assert 0 < alone.found.sum() < len(MEANS)


def test_rows_for_several_batches_are_in_flight_and_the_model_is_shown_one_batch_at_a_time() -> (
    None
):
    class Watched(Brightness):
        calls: tuple[int, ...] = ()

        def forward(self, x: Tensor) -> Tensor:
            self.calls += (len(x),)
            return super().forward(x)

    class Wide(Probe):
        batches = 3

    model, what = Watched(), task(MEANS * 10)
    wide, narrow = (
        search(Wide(shift=0.05), what, model, batch_size=32),
        search(Probe(shift=0.05), what, batch_size=32),
    )
    assert model.calls[:3] == (32, 32, 32)
    assert max(model.calls) == 32
    for name in ("found", "forward"):
        assert torch.equal(getattr(wide, name), getattr(narrow, name))


def test_a_row_leaves_at_its_first_success_and_the_others_use_all_steps() -> None:
    result = search(Probe(shift=0.05, moves=4), task([0.2, 0.49]))
    assert result.found.tolist() == [False, True]
    assert result.forward.tolist() == [4, 1]


def test_rows_that_are_not_found_return_the_clean_image() -> None:
    what = task([0.2, 0.8])
    result = search(PGD(steps=3, step_size=0.05), what)
    assert not result.found.any()
    assert torch.equal(result.x_adv, what.x)
    assert result.size.isinf().all()


def test_restarts_are_for_rows_that_are_not_broken_yet() -> None:
    result = search(Probe(shift=0.05, moves=2, restarts=3), task([0.2, 0.49]))
    assert result.forward.tolist() == [6, 1]
    at_the_end = search(Probe(shift=0.05, moves=1, restarts=3), task([0.2, 0.49]))
    assert at_the_end.forward.tolist() == [3, 1]


def test_each_restart_draws_a_new_start() -> None:
    class Recorder(Brightness):
        seen: tuple[Tensor, ...] = ()

        def forward(self, x: Tensor) -> Tensor:
            self.seen = (*self.seen, x[0].detach().clone())
            return super().forward(x)

    model = Recorder()
    search(PGD(steps=1, step_size=0.01, restarts=2), task([0.2]), model)
    assert not torch.equal(model.seen[0], model.seen[2])


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 6, 7])
def test_a_query_budget_is_kept_to_the_query(budget: int) -> None:
    result = search(Probe(moves=6), task([0.2, 0.8, 0.3]), query_budget=budget)
    assert (result.forward + result.backward == min(budget, 6)).all()
    gradients = search(
        PGD(steps=3), task([0.2, 0.8]), query_budget=budget
    )  # three steps of two queries, and the last point
    spent = 7 if budget >= 7 else budget - budget % 2
    assert (gradients.forward + gradients.backward == spent).all()


def test_a_last_point_is_handed_over_unasked_and_its_query_is_counted() -> None:
    model = Brightness()
    outcome = search(Probe(shift=0.05, moves=1, final=True), task(MEANS), model)
    assert model.rows == 0
    assert outcome.unasked.all()
    assert outcome.claimed.all()
    assert not outcome.found.any()
    assert (outcome.forward == 1).all()
    assert (outcome.size - 0.05).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("attack", "options"),
    [({"final": False}, {}), ({"restarts": 2}, {}), ({}, {"free_looks": False})],
    ids=["not final", "may start anew", "no look is free"],
)
def test_where_something_depends_on_the_answer_to_a_last_point_the_model_is_asked(
    attack: dict[str, Any], options: dict[str, Any]
) -> None:
    model = Brightness()
    outcome = search(
        Probe(**{"shift": 0.05, "moves": 1, "final": True} | attack), task(MEANS), model, **options
    )
    assert model.rows > 0
    assert not outcome.unasked.any()
    assert 0 < outcome.found.sum() < len(MEANS)


def test_a_row_that_cannot_pay_for_its_last_point_claims_nothing() -> None:
    outcome = search(Probe(shift=0.05, moves=1, final=True), task(MEANS), query_budget=0)
    assert not outcome.claimed.any()
    assert (outcome.forward == 0).all()


def test_queries_are_what_the_model_was_shown() -> None:
    model = Brightness()
    result = search(Probe(moves=5), task(MEANS * 2), model, batch_size=22)
    assert model.rows == result.forward.sum()


@pytest.mark.parametrize("access", [Access.SCORES, Access.GRADIENT])
def test_an_attack_that_asks_for_more_than_it_declares_is_refused(access: Access) -> None:
    with pytest.raises(
        AttackError, match=f"probe asked for {access.name} but declares access = LABELS"
    ):
        search(Probe(wants=access), task([0.2]))


def test_an_attack_that_claims_a_point_outside_of_the_ball_is_named_with_sample_and_excess() -> (
    None
):
    with pytest.raises(AttackError, match=r"probe left the Linf ball .* on sample 100, by 0\.2"):
        search(Probe(shift=0.3), task([0.4]))


def test_an_attack_that_leaves_the_ball_is_refused_even_without_success() -> None:
    with pytest.raises(AttackError, match=r"on sample 100, by 0\.05"):
        search(Probe(shift=0.15), task([0.1]))


def test_an_attack_that_makes_nan_is_an_error_and_not_a_robust_sample() -> None:
    with pytest.raises(AttackError, match="probe produced NaN for sample 100"):
        search(Probe(shift=float("nan")), task([0.1]))


def test_a_model_that_returns_nan_is_an_error_and_not_a_robust_sample() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), float("nan"))

    with pytest.raises(ModelError, match="sample 100"):
        search(Probe(), task([0.1]), Broken())


class Rounded(Brightness):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 20).round() / 20)


def test_a_surrogate_gives_the_gradient_that_the_model_lacks_and_the_model_still_judges() -> None:
    what = task([0.44, 0.2])
    attack = PGD(steps=10, step_size=0.02, random_start=False)
    assert not search(attack, what, Rounded()).found.any()
    adaptive = search(attack, what, DefendedModel(Rounded(), Traits(surrogate=Brightness())))
    assert adaptive.found.tolist() == [True, False]
    assert (Rounded()(adaptive.x_adv[:1]).argmax(1) != what.y[:1]).all()


def test_passes_of_a_surrogate_are_paid_for() -> None:
    model, surrogate = Brightness(), Brightness()
    attack = PGD(steps=4, step_size=0.001, random_start=False)
    result = search(attack, task([0.2] * 16), DefendedModel(model, Traits(surrogate=surrogate)))
    assert (model.rows, surrogate.rows) == (5 * 16, 4 * 16)
    assert result.forward.tolist() == [5 + 4] * 16
    assert result.backward.tolist() == [4] * 16


def test_a_tie_ends_no_search() -> None:
    class Level(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x)

    result = search(Probe(moves=3), task(MEANS), Level())
    assert not result.found.any()
    assert (result.forward == 3).all()


@pytest.mark.parametrize("free_looks", [True, False])
def test_of_a_search_for_the_nearest_the_nearest_success_within_bounds_is_kept(
    free_looks: bool,
) -> None:
    class Stepping(Probe):
        """Its nearest success has a value above 1; of the others the second is nearest."""

        kind = "minimal_distance"  # type: ignore[assignment]

        def ask(self, state: Still) -> Query:
            points = state.x + torch.tensor([0.15, 0.4, 0.3, 0.35])[
                state.step.clamp(max=3)
            ].reshape(-1, 1, 1, 1)
            return Query(points if int(state.step[0]) == 0 else points.clamp(max=1), Access.LABELS)

    what = task([0.4, 0.41, 0.42])
    what.x[:, 0, 0, 0] = 0.95
    result = search(
        Stepping(moves=4), what, threat=ThreatModel.parse("linf", None), free_looks=free_looks
    )
    assert result.found.all()
    assert (result.x_adv <= 1).all()
    torch.testing.assert_close(result.size, torch.full((3,), 0.3))


def test_a_success_outside_of_the_ball_is_an_error_even_if_the_attack_comes_back() -> None:
    class Returning(Probe):
        def ask(self, state: Still) -> Query:
            return Query(state.x + 0.3 * (state.step == 0).reshape(-1, 1, 1, 1), Access.LABELS)

    with pytest.raises(AttackError, match=r"probe left the Linf ball .* on sample 100, by 0\.2"):
        search(Returning(), task([0.4]))


def test_what_most_votes_are_against_is_not_found() -> None:
    class Seldom(nn.Module):
        takes_rng = True

        def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
            wrong = (rng.restart % 5 == 0).float()
            return torch.stack([1 - wrong, wrong], 1)

    result = search(
        Probe(), task([0.2] * 8), DefendedModel(Seldom(), Traits(random=True, votes=15))
    )
    assert not result.found.any()
    assert (
        result.forward == 3 + 15
    ).all()  # one draw of three was lucky, and its point was voted on


def test_the_draws_of_a_random_model_are_averaged_and_all_counted() -> None:
    model = Brightness()
    result = search(
        PGD(steps=2, step_size=0.01),
        task([0.2] * 16),
        DefendedModel(model, Traits(random=True, draws=3)),
    )
    assert result.forward.tolist() == [9] * 16
    assert result.backward.tolist() == [6] * 16
    assert model.rows == 9 * 16


def test_logits_times_a_thousand_do_not_raise_robust_accuracy() -> None:
    class Loud(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return 1e6 * super().forward(x)

    what, attack = task(MEANS), PGD(steps=20, step_size=0.01, random_start=False)
    quiet, loud = search(attack, what), search(attack, what, Loud())
    assert quiet.found.any()
    assert (loud.found >= quiet.found).all()


class Noisy(Brightness):
    """Its logits move by far more than a step of an attack does, with numbers that belong to the
    sample.
    """

    takes_rng = True

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:  # type: ignore[override]
        return super().forward(x) + torch.cat(
            [torch.zeros(len(x), 1), 0.05 * rng.normal(0, (1,))], 1
        )


def test_a_lucky_draw_of_a_random_model_does_not_end_the_search_and_votes_are_paid_for() -> None:
    attack = PGD(steps=20, step_size=0.005, random_start=False, loss="margin")
    defended = DefendedModel(Noisy(), Traits(random=True, draws=1, votes=15))
    result = search(attack, task([0.44] * 64), defended)
    lead = (
        result.x_adv.flatten(1).mean(1) * 2 - 1
    )  # the mean margin; its standard deviation is 0.05
    assert result.found.all()
    assert (lead > 0).float().mean() > 0.9  # at a lucky draw it would be below 0 for most
    assert (result.forward >= result.backward + 15).all()
    budgeted = search(attack, task([0.44] * 64), defended, query_budget=30)
    assert (budgeted.forward + budgeted.backward <= 30).all()
