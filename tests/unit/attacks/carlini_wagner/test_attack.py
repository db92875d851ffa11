"""Carlini-Wagner: what each row's search does, apart from its neighbours."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.carlini_wagner.attack import CarliniWagner
from rbl_attacks.carlini_wagner.distance import CarliniWagnerState, ExcessLinf, SquaredL2
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.losses import margin
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, present

QUICK: dict[str, Any] = {
    "steps": 120,
    "search_steps": 6,
    "initial_const": 0.1,
    "learning_rate": 0.05,
}


def linear(classes: int = 4) -> Any:
    generator = torch.Generator().manual_seed(classes)
    layer = nn.Linear(36, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 36, generator=generator))
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)


def images(model: nn.Module, rows: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    return x, model(x).argmax(1)


def begin(attack: CarliniWagner, x: Tensor, y: Tensor, norm: str = "l2") -> Any:
    index = torch.arange(len(y))
    return attack.init(x, y, ThreatModel.parse(norm, None), SampleRng.create(0, "test", index))


def answered(
    success: Tensor, labels: Tensor, gradient: Tensor, loss: Tensor, logits: Tensor | None = None
) -> Answer:
    return Answer(success, labels, logits, gradient, lambda: loss)


def follow(
    attack: CarliniWagner,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str = "l2",
    limit: int = 5000,
) -> Iterator[tuple[Any, Tensor]]:
    """Every state on the way, with the margins of the points that were asked."""
    state, none = begin(attack, x, y, norm), torch.full_like(y, -1)
    for _ in range(limit):
        query = attack.ask(state)
        points = query.points.detach().requires_grad_()
        logits = model(points)
        loss = present(query.loss)(logits, y, none)
        (gradient,) = torch.autograd.grad(loss.sum(), points)
        logits = logits.detach()
        gap = margin(logits, y, none)
        yield state, gap
        if state.finished.all():
            return
        state = attack.tell(
            state, answered(gap < 0, logits.argmax(1), gradient, loss.detach(), logits)
        )
    raise AssertionError("The search has no end.")


def constants(attack: CarliniWagner, model: nn.Module, x: Tensor, y: Tensor) -> list[list[Any]]:
    """The values of c that the first row tries, in order, with its success at each."""
    tried: list[list[Any]] = []
    for state, _ in follow(attack, model, x, y):
        if state.finished[0]:
            return tried
        if state.step[0] == 0:
            tried.append([float(state.const[0]), False])
        tried[-1][1] |= bool(state.hit[0])
    raise AssertionError


def found(
    attack: CarliniWagner, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, norm: str = "l2"
) -> SearchOutcome:
    engine = Engine(attack, Passes(DefendedModel(model), 64), ThreatModel.parse(norm, None))
    return joined(engine.search(Task(x, y, target, torch.arange(len(y)))))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pixels_at_exactly_0_and_1_can_move(norm: str) -> None:
    model = linear()
    x = (torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    y = model(x).argmax(1)
    result = found(
        CarliniWagner(**{**QUICK, "steps": 200}), model, x, y, torch.full_like(y, -1), norm
    )
    assert result.found.all()
    assert ((result.x_adv - x).abs().flatten(1).amax(1) > 0.005).all()


def test_black_and_white_pixels_get_the_time_to_leave_the_ends_of_the_tanh() -> None:
    model = linear()
    x = (torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    y = model(x).argmax(1)
    # Steps of 0.01 need about 300 to move such a pixel visibly; the loss is looked at every 60.
    attack = CarliniWagner(steps=600, search_steps=2, initial_const=10.0)
    assert found(attack, model, x, y, torch.full_like(y, -1)).found.all()


def test_a_run_of_too_small_a_c_is_given_up_early_even_though_it_hardly_moves() -> None:
    model = linear()
    x, y = images(model)
    attack = CarliniWagner(steps=200, search_steps=1, initial_const=1e-3)
    result = found(attack, model, x, y, torch.full_like(y, -1))
    assert (result.backward[~result.found] < attack.steps).all()
    assert not result.found.all()


def test_linf_runs_begin_at_the_last_success_and_l2_runs_at_the_image() -> None:
    model = linear()
    x, y = images(model)
    for norm in ("l2", "linf"):
        success = torch.zeros(len(y), dtype=torch.bool)
        for state, gap in follow(CarliniWagner(**QUICK), model, x, y, norm):
            begins = (state.step == 0) & ~state.finished
            at_image = (state.x_adv - x).abs().flatten(1).amax(1) < 1e-5
            assert (
                (at_image | ~begins).all()
                if norm == "l2"
                else (gap[begins & success] <= 1e-5).all()
            )
            success |= state.bracket.high.isfinite()


def test_the_search_starts_at_the_image() -> None:
    model = linear()
    x, y = images(model)
    assert torch.allclose(begin(CarliniWagner(), x, y).x_adv, x, atol=1e-5)


def test_c_grows_tenfold_until_the_first_success_and_is_then_bisected() -> None:
    model = linear()
    x, y = images(model, rows=4)
    attack = CarliniWagner(
        steps=100, search_steps=7, initial_const=1e-4, learning_rate=0.05, abort_early=False
    )
    for row in range(len(y)):
        tried = constants(attack, model, x[row : row + 1], y[row : row + 1])
        assert len(tried) == 7
        low, high = 0.0, float("inf")
        for (const, hit), (following, _) in zip(tried, [*tried[1:], (None, None)], strict=True):
            low, high = (low, const) if hit else (const, high)
            expected = (low + high) / 2 if high < float("inf") else 10 * const
            assert following is None or following == pytest.approx(expected)
        assert high < float("inf")


def test_the_constants_of_a_row_do_not_depend_on_its_neighbours() -> None:
    model = linear()
    x, y = images(model)
    attack = CarliniWagner(**QUICK)
    alone, together = constants(attack, model, x[:1], y[:1]), constants(attack, model, x, y)
    assert alone == together


def test_a_run_without_progress_ends_at_the_next_look_and_only_with_abort_early() -> None:
    model = linear()
    x, y = images(model, rows=4)
    gradient = torch.zeros_like(x)
    for abort_early, expected in ((True, [21, 42]), (False, [100, 200])):
        attack = CarliniWagner(steps=100, search_steps=2, abort_early=abort_early)
        state, ends = begin(attack, x, y), []
        # The loss stands still: it is looked at every ten steps, and the second look ends the run.
        for step in range(1, 300):
            state = attack.tell(
                state,
                answered(torch.zeros(4, dtype=torch.bool), y, gradient, torch.full((4,), -1.0)),
            )
            if (state.step == 0).all():
                ends.append(step)
            if state.finished.all():
                break
        assert ends == ([11, 22] if abort_early else expected)


def test_an_l2_run_that_has_succeeded_is_never_cut_short() -> None:
    model = linear()
    x, y = images(model, rows=4)
    state = begin(CarliniWagner(steps=100, search_steps=2), x, y)
    for step in range(1, 101):
        won = torch.full((4,), step == 1)
        answer = answered(won, y, torch.zeros_like(x), torch.full((4,), 0.0 if step == 1 else -1.0))
        state = CarliniWagner(steps=100, search_steps=2).tell(state, answer)
        assert (state.step == step % 100).all()


def test_confidence_counts_a_run_as_a_success_only_at_that_margin() -> None:
    model = linear()
    x, y = images(model)
    attack = CarliniWagner(**QUICK, confidence=2.0)
    best, before = torch.full((len(y),), float("inf")), None
    for state, gap in follow(attack, model, x, y):
        if before is not None:
            fresh = state.step > 0  # runs that go on
            assert (best[state.hit & fresh] <= -2.0 + 1e-5).all()
            assert (best[~state.hit & fresh] > -2.0 - 1e-5).all()
        best = torch.where(state.step == 0, gap, torch.minimum(best, gap))
        before = state
    wide = found(attack, model, x, y, torch.full_like(y, -1))
    assert wide.found.all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_targeted_search_reaches_its_class(norm: str) -> None:
    model = linear()
    x, y = images(model)
    target = (y + 1) % 4
    result = found(CarliniWagner(**{**QUICK, "steps": 200}), model, x, y, target, norm)
    assert result.found.all()
    assert torch.equal(model(result.x_adv).argmax(1), target)


def test_a_row_that_finds_nothing_returns_its_clean_image() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval().requires_grad_(False)
    model[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    x, y = images(model, rows=3)
    for norm in ("l2", "linf"):
        result = found(CarliniWagner(**QUICK), model, x, y, torch.full_like(y, -1), norm)
        assert not result.found.any()
        assert torch.equal(result.x_adv, x)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_sample_never_costs_more_gradients_than_announced_and_progress_rises_to_one(
    norm: str,
) -> None:
    model = linear()
    x = images(model)[0].round()  # black and white: Linf runs of any length
    y = model(x).argmax(1)
    attack = CarliniWagner(**{**QUICK, "steps": 200})
    result = found(attack, model, x, y, torch.full_like(y, -1), norm)
    assert (result.backward <= attack.steps * attack.search_steps).all()
    on_the_way = [
        (attack.progress(state), ~state.finished) for state, _ in follow(attack, model, x, y, norm)
    ]
    shares, live = (torch.stack(column) for column in zip(*on_the_way, strict=True))
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares.diff(dim=0)[live[:-1]] >= 0).all()


def test_linf_lowers_tau_at_each_success_only() -> None:
    model = linear()
    x, y = images(model)
    before: CarliniWagnerState | None = None
    for state, _ in follow(CarliniWagner(**QUICK), model, x, y, "linf"):
        if before is not None:
            lower = (state.tau < before.tau) & ~before.finished
            assert (state.bracket.high[lower] < before.bracket.high[lower]).all()
            assert (state.bracket.high[lower] <= before.tau[lower]).all()
        before = state


def test_the_distance_terms_are_those_worked_out_by_hand() -> None:
    delta, tau = torch.tensor([[[[0.3, -0.1, -0.25, 0.0]]]]), torch.tensor([0.2])
    value, slope, size = ExcessLinf().term(delta.clone(), tau)
    assert value.item() == pytest.approx(0.1 + 0.05)  # changes up to tau are free
    assert slope.flatten().tolist() == [0.5, 0, -0.5, 0]
    assert size.item() == pytest.approx(0.3)
    value, slope, size = SquaredL2().term(delta.clone(), tau)
    assert value.item() == pytest.approx(0.09 + 0.01 + 0.0625)
    assert torch.equal(slope, delta)
    assert size.item() == pytest.approx(0.1625**0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"search_steps": 0},
        {"initial_const": 0},
        {"learning_rate": 0},
        {"confidence": -1},
    ],
)
def test_senseless_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="carlini_wagner needs"):
        CarliniWagner(**wrong)
