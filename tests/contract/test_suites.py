"""What every registered suite promises: verdicts of the sample's own, budgets, odd networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import registry
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.records.outcomes import CellArrays
from tests.conftest import present
from tests.contract.test_attacks import network

EPS = {"linf": 0.04, "l2": 0.25, "l1": 1.5, "l0": 2.0}
CASES = [
    pytest.param(name, norm, id=f"{name}-{norm}")
    for name in registry.names("suite")
    for norm in sorted(registry.load("suite", name).norms)
]
SHAPE = (1, 6, 6)
ROWS = 10


class Constant(nn.Module):
    """Gives every image the same logits."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :1] + torch.tensor([0.5, 0.25, 0.0, 0.0])


def images(rows: int = ROWS, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(5))


def run(name: str, norm: str, model: nn.Module, x: Tensor, **options: Any) -> Cell:
    y = model(x).argmax(1)
    return rbl.evaluate(
        model, (x, y), name, norm=norm, eps=EPS[norm], certify="off", **options
    ).cells[0]


def arrays_of(cell: Cell) -> CellArrays:
    return present(cell.arrays)


def assert_same(first: CellArrays, second: CellArrays, rows: slice = slice(None)) -> None:
    assert np.array_equal(first.broken[rows], second.broken)
    assert np.array_equal(first.forward_queries[rows], second.forward_queries)
    assert np.array_equal(first.backward_queries[rows], second.backward_queries)
    assert np.array_equal(present(first.staged).broken_by[rows], present(second.staged).broken_by)


@pytest.mark.parametrize(("name", "norm"), CASES)
class TestEverySuite:
    @pytest.mark.parametrize("budget", [700, pytest.param(None, marks=pytest.mark.slow)])
    def test_batch_size_and_shards_change_no_verdict_no_stage_and_no_query(
        self, name: str, norm: str, budget: int | None
    ) -> None:
        model = network(SHAPE)
        x = images()
        whole = arrays_of(run(name, norm, model, x, query_budget=budget))
        assert whole.broken.any()
        again = run(name, norm, model, x, batch_size=3, query_budget=budget)
        assert_same(whole, arrays_of(again))
        part = slice(1, None, 3)
        ids = torch.arange(ROWS)[part]
        shard = run(name, norm, model, x[part], ids=ids, query_budget=budget)
        assert_same(whole, arrays_of(shard), part)

    @pytest.mark.parametrize("budget", [1, 40, 333])
    def test_a_query_budget_is_never_exceeded(self, name: str, norm: str, budget: int) -> None:
        arrays = arrays_of(run(name, norm, network(SHAPE), images(6), query_budget=budget))
        assert (arrays.forward_queries + arrays.backward_queries <= budget).all()

    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes_are_enough(self, name: str, norm: str, classes: int) -> None:
        model = network(SHAPE, classes=classes)
        cell = run(name, norm, model, images(5), keep_adversarials=True, query_budget=900)
        broken = torch.from_numpy(arrays_of(cell).broken)
        x_adv = present(cell.x_adv)
        assert (model(x_adv).argmax(1) != model(images(5)).argmax(1))[broken].all()

    def test_logits_that_never_change_and_a_single_image_are_no_error(
        self, name: str, norm: str
    ) -> None:
        cell = run(name, norm, Constant(), images(1), query_budget=600)
        assert cell.robust_accuracy == 1

    def test_a_thousand_classes_are_no_error(self, name: str, norm: str) -> None:
        model = network(SHAPE, classes=1000)
        cell = run(name, norm, model, images(3), query_budget=400)
        assert (arrays_of(cell).distance[~cell.robust] <= EPS[norm] * 1.001).all()
