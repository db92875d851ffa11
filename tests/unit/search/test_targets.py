"""The classes that rows are driven to: of a linear model, whose distances are known."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from robustbench_lite.errors import UsageError
from robustbench_lite.rows.losses import difference_of_logits_ratio, logit_difference
from robustbench_lite.search.query import Answer
from robustbench_lite.search.targets import MOST, Targets, TargetTurns
from robustbench_lite.threat import Linf, ThreatModel
from robustbench_lite.threat.norms import L1, L2, Norm

WEIGHT = torch.tensor([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0], [3.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
"""Of four classes, by three values."""
BIAS = torch.tensor([2.0, -4.0, -1.0, 1.0])
X = torch.tensor([[0.4, 0.4, 0.4], [0.5, 0.2, 0.1], [0.0, 0.0, 0.0]]).reshape(3, 3, 1, 1)
Y = torch.tensor([0, 0, 1])


@dataclass(frozen=True)
class Linear:
    """Answers a query at the clean images, like the oracle."""

    classes: int = 4

    def logits(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ WEIGHT[: self.classes].T + BIAS[: self.classes]

    def answer(self, targets: Targets, turns: TargetTurns, x: Tensor = X, y: Tensor = Y) -> Answer:
        toward = targets.toward(turns)
        assert toward is not None
        points = x.clone().requires_grad_()
        logits = self.logits(points)
        losses = targets.loss(difference_of_logits_ratio)(logits, y, toward)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
        logits = logits.detach()
        return Answer(logits.argmax(1) != y, logits.argmax(1), logits, gradient, losses.detach)


def ranked(text: str, norm: Norm | None = None, classes: int = 4) -> TargetTurns:
    """The turns of all rows when their orders are known."""
    targets = Targets.parse(text)
    turns = targets.begin(Y)
    while turns.ranking.any():
        turns = targets.rank(turns, Linear(classes).answer(targets, turns), norm or Linf())
    return turns


def by_hand(norm: Norm, row: int) -> list[int]:
    """The classes of a row by their distances, computed with no network in sight."""
    y = int(Y[row])
    logits = Linear().logits(X)[row]
    away = [float("inf")] * 4
    for rival in set(range(4)) - {y}:
        slope = (WEIGHT[y] - WEIGHT[rival]).reshape(1, 3, 1, 1)
        away[rival] = float((logits[y] - logits[rival]) / norm.dual_size(slope))
    return sorted(set(range(4)) - {y}, key=lambda rival: away[rival])


@pytest.mark.parametrize(
    "text", ["", "some", "top", "top:0", "top:-1", "top:x", "malt", "malt:10", f"top:{MOST + 1}"]
)
def test_what_is_no_rule_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"none, all, top:K or malt:K|:1 to (malt|top):\d+"):
        Targets.parse(text)


def test_a_goal_that_names_the_class_is_enough() -> None:
    named = ThreatModel.parse("linf", 0.1, "random")
    Targets.parse("none").check("some_attack", named)
    Targets.parse("top:3").check("some_attack", ThreatModel.parse("linf", 0.1))
    with pytest.raises(UsageError, match="some_attack targets=none"):
        Targets.parse("top:3").check("some_attack", named)


def test_without_targets_the_goal_decides_and_there_is_one_turn() -> None:
    targets = Targets.parse("none")
    turns = targets.begin(Y)
    assert targets.toward(turns) is None
    assert targets.loss(logit_difference) is logit_difference
    assert not turns.ranking.any()
    assert not turns.over.any()
    assert turns.next(torch.tensor([True, False, True])).over.tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["all", "top:3", "top:7"])
def test_classes_come_in_the_order_of_the_logits(text: str) -> None:
    turns = ranked(text)
    logits = Linear().logits(X)
    for row in range(3):
        wrong = [k for k in logits[row].argsort(descending=True).tolist() if k != Y[row]]
        assert turns.order[row, :3].tolist() == wrong
    assert turns.number.tolist() == [3, 3, 3]
    assert (turns.order[:, 3:] == -1).all()


def test_one_forward_is_enough_for_the_order_of_the_logits() -> None:
    targets = Targets.parse("top:2")
    turns = targets.begin(Y)
    assert not targets.wants_gradient(turns).any()
    assert not targets.rank(turns, Linear().answer(targets, turns), Linf()).ranking.any()


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=lambda norm: norm.name)
def test_malt_orders_by_the_distance_of_a_linear_model(norm: Norm) -> None:
    turns = ranked("malt:3", norm)
    assert [row[:3] for row in turns.order.tolist()] == [by_hand(norm, row) for row in range(3)]


def test_the_order_of_malt_is_not_that_of_the_logits() -> None:
    assert not torch.equal(ranked("malt:3").order[:, :3], ranked("top:3").order)


def test_malt_asks_for_one_gradient_a_candidate_and_no_more() -> None:
    targets = Targets.parse("malt:1")
    turns = targets.begin(Y)
    asked = 0
    while turns.ranking.any():
        assert torch.equal(targets.wants_gradient(turns), turns.ranking)
        turns = targets.rank(turns, Linear().answer(targets, turns), Linf())
        asked += 1
    assert asked == 3
    assert not targets.wants_gradient(turns).any()
    assert turns.number.tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["all", "top:3", "malt:3"])
def test_of_two_classes_there_is_one_to_drive_to(text: str) -> None:
    turns = ranked(text, classes=2)
    assert turns.number.tolist() == [1, 1, 1]
    assert turns.now.tolist() == [1, 1, 0]
    assert turns.next(torch.ones(3, dtype=torch.bool)).over.all()


def test_a_row_goes_through_its_classes_and_is_over() -> None:
    turns = ranked("top:2")
    seen = []
    while not turns.over.any():
        seen.append(turns.now.tolist())
        turns = turns.next(torch.ones(3, dtype=torch.bool))
    assert torch.tensor(seen).T.tolist() == turns.order.tolist()


def test_rows_at_different_stages_share_a_query() -> None:
    targets = Targets.parse("malt:2")
    late = targets.begin(Y)
    early = ranked("malt:2")
    turns = late.select(torch.tensor([0])).append(early.select(torch.tensor([1, 2])))
    toward = targets.toward(turns)
    assert toward is not None
    logits = Linear().logits(X)
    losses = targets.loss(difference_of_logits_ratio)(logits, Y, toward)
    alone = difference_of_logits_ratio(logits, Y, early.now)
    assert losses[0] == logits[0, 1:].max() - logits[0, 0]
    assert torch.equal(losses[1:], alone[1:])
    after = targets.rank(turns, Linear().answer(targets, turns), Linf())
    assert torch.equal(after.order[1:], early.order[1:])
    assert after.ranked.tolist() == [1, 3, 3]


def test_no_row_depends_on_its_neighbours() -> None:
    together = ranked("malt:3")
    targets = Targets.parse("malt:3")
    for row in range(3):
        mine = slice(row, row + 1)
        turns = targets.begin(Y[mine])
        while turns.ranking.any():
            answer = Linear().answer(targets, turns, X[mine], Y[mine])
            turns = targets.rank(turns, answer, Linf())
        assert torch.equal(turns.order[0], together.order[row])


def test_a_gradient_of_zero_is_no_error() -> None:
    targets = Targets.parse("malt:3")
    turns = targets.begin(Y)
    while turns.ranking.any():
        answer = Linear().answer(targets, turns)
        still = Answer(answer.success, answer.labels, answer.logits, 0 * X, answer.loss_of)
        turns = targets.rank(turns, still, Linf())
    assert turns.order[:, :3].sort(1).values.tolist() == [[1, 2, 3], [1, 2, 3], [0, 2, 3]]
