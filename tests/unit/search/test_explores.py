"""Points that explore may leave the ball of a fixed-eps attack; what they find there is nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.losses import cross_entropy
from robustbench_lite.search import Access, Answer, Attack, Kind, Query, SampleRng, State
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined

EPS = 0.1


@dataclass(frozen=True)
class Walking(State):
    x: Tensor
    step: Tensor


@dataclass(frozen=True, kw_only=True)
class Stroll(Attack[Walking]):
    """Asks at these distances from the image, one after the other."""

    name: ClassVar[str] = "stroll"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    kind: ClassVar[Kind] = "fixed_eps"
    paper: ClassVar[str] = "none"

    distances: tuple[float, ...]
    explores: tuple[bool, ...]

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> Walking:
        return Walking(torch.zeros_like(y, dtype=torch.bool), x, torch.zeros_like(y))

    def ask(self, state: Walking) -> Query:
        away = torch.tensor(self.distances)[state.step].reshape(-1, 1, 1, 1)
        explores = torch.tensor(self.explores)[state.step]
        return Query.gradient(state.x + away, cross_entropy, explores=explores)

    def tell(self, state: Walking, answer: Answer) -> Walking:
        step = (state.step + 1).clamp(max=len(self.distances) - 1)
        finished = state.step + 1 >= len(self.distances)
        return state.replace(step=step, finished=state.finished | finished)


class Threshold(nn.Module):
    """Class 1 where the mean is above 0.45."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0.45 - mean, mean - 0.45], 1)


def search(
    distances: tuple[float, ...], explores: tuple[bool, ...], *, free_looks: bool
) -> SearchOutcome:
    x = torch.full((3, 1, 2, 2), 0.4)
    y = torch.zeros(3, dtype=torch.int64)
    engine = Engine(
        Stroll(distances=distances, explores=explores),
        Passes(DefendedModel(Threshold().eval()), 2),
        ThreatModel.parse("linf", EPS),
        free_looks=free_looks,
    )
    return joined(engine.search(Task(x, y, torch.full_like(y, -1), torch.arange(3))))


@pytest.mark.parametrize("free_looks", [True, False])
class TestExploring:
    def test_a_success_outside_of_the_ball_is_none_and_no_error(self, free_looks: bool) -> None:
        found = search((0.3, 0.2, 0.01), (True, True, False), free_looks=free_looks)
        assert not found.found.any()
        assert found.backward.tolist() == [3, 3, 3]

    def test_a_search_may_end_outside(self, free_looks: bool) -> None:
        assert not search((0.01, 0.3), (False, True), free_looks=free_looks).found.any()

    def test_a_success_inside_counts(self, free_looks: bool) -> None:
        found = search((0.3, 0.08), (True, True), free_looks=free_looks)
        assert found.found.all()
        torch.testing.assert_close(found.size, torch.full((3,), 0.08))

    @pytest.mark.parametrize("distances", [(0.3, 0.01), (0.01, 0.3)])
    def test_who_does_not_explore_may_not_leave_the_ball(
        self, free_looks: bool, distances: tuple[float, ...]
    ) -> None:
        with pytest.raises(AttackError, match="left the Linf ball"):
            search(distances, (False, False), free_looks=free_looks)

    def test_it_says_nothing_for_the_next_point(self, free_looks: bool) -> None:
        with pytest.raises(AttackError, match="left the Linf ball"):
            search((0.3, 0.3), (True, False), free_looks=free_looks)
