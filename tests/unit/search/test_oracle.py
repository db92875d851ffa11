"""The oracle: a loss may drive to a class of the attack's choice; success stays the goal's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rbl_attacks.apgd.attack import APGD
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search import Query, logit_difference
from robustbench_lite.search.oracle import Oracle

CPU = torch.device("cpu")
ROWS, CLASSES = 5, 4


def linear() -> nn.Sequential:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network.requires_grad_(False)


def rows_of(points: torch.Tensor, y: torch.Tensor) -> Points:
    zeros = torch.zeros_like(y)
    return Points(points, y, zeros - 1, torch.arange(len(y)), zeros)


@pytest.mark.parametrize("free_looks", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_loss_drives_to_the_class_that_the_query_names(free_looks: bool, count: int) -> None:
    model = linear()
    oracle = Oracle(Passes(DefendedModel(model), 64), APGD(), free_looks, CPU)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(ROWS, count, 1, 2, 3, generator=generator)
    points = points[:, 0] if count == 1 else points
    y = torch.arange(ROWS) % CLASSES
    toward = (y.unsqueeze(1) + 1 + torch.arange(count)) % CLASSES
    toward = toward[:, 0] if count == 1 else toward
    query = Query.gradient(points, logit_difference, toward=toward)
    cost = oracle.meter.cost(query, torch.ones(ROWS, dtype=torch.bool))
    answer = oracle.answer(query, rows_of(points, y), cost).answer
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    weight = layer.weight
    own = weight[y].reshape(ROWS, *[1] * (toward.dim() - 1), 6)
    slope = (weight[toward] - own).reshape(points.shape)
    torch.testing.assert_close(answer.need_gradient(), slope)
    logits = model(points.reshape(-1, 1, 2, 3)).reshape(*points.shape[:-3], CLASSES)
    at = y.reshape(ROWS, *[1] * (toward.dim() - 1)).expand_as(toward).unsqueeze(-1)
    behind = logits.gather(-1, toward.unsqueeze(-1)) - logits.gather(-1, at)
    torch.testing.assert_close(answer.need_loss(), behind.squeeze(-1))
    assert torch.equal(answer.success, logits.argmax(-1) != at.squeeze(-1))
