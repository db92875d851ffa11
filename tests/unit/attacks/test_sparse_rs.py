"""Sparse-RS: sets of pixels in corner colours, exchanged where the margin falls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.sparse_rs import SparseRS
from robustbench_lite.errors import UsageError
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search import Answer
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, small_network


class Places(nn.Module):
    """Says class 1 only where pixels 7 and 20 are both white."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        lit = flat[:, 7] + flat[:, 20]
        return torch.stack([torch.full_like(lit, 1.9), lit], 1)


def answer(loss: Tensor) -> Answer:
    no = torch.zeros_like(loss, dtype=torch.bool)
    return Answer(no, no.long(), None, None, lambda: loss)


def test_it_finds_the_two_pixels_that_decide() -> None:
    x = torch.zeros(20, 1, 6, 6)
    cell = rbl.evaluate(
        Places(), (x, torch.zeros(20, dtype=torch.int64)), "sparse_rs queries=800", norm="l0", eps=2
    ).cells[0]
    assert cell.robust_accuracy == 0
    assert (cell.distance == 2).all()


def test_a_proposal_differs_in_eps_pixels_of_corner_colours() -> None:
    x = 0.25 + images(9, (3, 5, 7)) / 2
    threat = ThreatModel.parse("l0", 4)
    attack = SparseRS(queries=50)
    state = attack.init(x, torch.zeros(9).long(), threat, SampleRng.create(0, "t", torch.arange(9)))
    for step in range(20):
        points = attack.ask(state).points
        changed = points != x
        assert (changed.any(1).flatten(1).sum(1) == 4).all()
        assert set(points[changed].tolist()) <= {0.0, 1.0}
        assert len(set(map(tuple, state.place.tolist()))) > 1
        state = attack.tell(state, answer(torch.full((9,), float(-step))))


def test_a_lower_loss_is_given_back() -> None:
    x = images(4)
    attack = SparseRS(queries=50)
    threat = ThreatModel.parse("l0", 3)
    state = attack.init(x, torch.zeros(4).long(), threat, SampleRng.create(0, "t", torch.arange(4)))
    first = state.place.clone()
    state = attack.tell(state, answer(torch.zeros(4)))
    state = attack.tell(state, answer(torch.tensor([-1.0, 1.0, -1.0, 0.0])))
    assert torch.equal(state.best_place[0], first[0])
    assert not torch.equal(state.best_place[1], first[1])
    assert not torch.equal(state.best_place[3], first[3])  # plateaus are crossed


def test_new_pixels_are_none_of_the_set() -> None:
    x = images(30, (1, 3, 3))
    attack = SparseRS(queries=200)
    threat = ThreatModel.parse("l0", 7)
    index = torch.arange(30)
    state = attack.init(x, torch.zeros(30).long(), threat, SampleRng.create(0, "t", index))
    for step in range(30):
        assert (state.place.sort(1).values.diff(dim=1) > 0).all()
        state = attack.tell(state, answer(torch.full((30,), float(step % 3))))


@pytest.mark.parametrize("eps", [0, 9, 400])
def test_no_pixel_or_all_of_them_is_no_error(eps: int) -> None:
    x = images(5, (1, 3, 3))
    network = small_network((1, 3, 3))
    y = network(x).argmax(1)
    cell = rbl.evaluate(network, (x, y), "sparse_rs queries=20", norm="l0", eps=eps).cells[0]
    assert (cell.distance[~cell.robust] <= eps).all()


@pytest.mark.parametrize("given", [{"queries": 0}, {"share": 0.0}, {"share": 1.5}])
def test_what_makes_no_sense_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sparse_rs needs"):
        SparseRS(**given)  # type: ignore[arg-type]
