"""FGSM: what the sweep is for, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.fgsm import FGSM
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel

ROWS = 16


class Band(nn.Module):
    """Class 1 where the mean lies within ``width`` of ``middle``; counts the rows that it is
    shown.
    """

    rows = 0

    def __init__(self, middle: float, width: float = 0.015) -> None:
        super().__init__()
        self.middle, self.width = middle, width

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        off = (x.flatten(1).mean(1) - self.middle) ** 2
        return torch.stack([off, off * 0 + self.width**2], 1)


def search(model: nn.Module, sweep: bool) -> SearchOutcome:
    x, y = torch.full((ROWS, 1, 3, 4), 0.4), torch.zeros(ROWS, dtype=torch.int64)
    engine = Engine(
        FGSM(sweep=sweep),
        Passes(DefendedModel(model), 64),
        ThreatModel.parse("linf", 0.2),
        free_looks=sweep,
    )
    (found,) = engine.search(Task(x, y, y - 1, torch.arange(ROWS)))
    return found


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_sweep_finds_what_lies_at_a_quarter_a_half_and_the_whole_of_the_way(
    share: float,
) -> None:
    model = Band(0.4 + share * 0.2)
    swept = search(model, sweep=True)
    assert swept.found.all()
    torch.testing.assert_close(swept.size, torch.full((ROWS,), share * 0.2))
    assert search(model, sweep=False).found.all() == (share == 1.0)


@pytest.mark.parametrize(("sweep", "forward"), [(True, 4), (False, 2)])
def test_it_costs_one_gradient_and_one_forward_a_candidate(sweep: bool, forward: int) -> None:
    model = Band(0.9)
    spent = search(model, sweep)
    assert not spent.found.any()
    assert spent.forward.tolist() == [forward] * ROWS
    assert spent.backward.tolist() == [1] * ROWS
    if sweep:  # without free looks rows ride along that ask nothing
        assert model.rows == forward * ROWS
