"""Levels found by Newton's method are those that a sort finds."""

import pytest
import torch

from robustbench_lite.threat import NORMS
from robustbench_lite.threat.levels import soft_level


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_what_is_left_above_the_level_sums_to_the_radius(scale: float) -> None:
    values = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).abs() ** 3 * scale
    radius = values.sum(1) * torch.linspace(0.001, 0.999, 50)
    level = soft_level(values, radius)
    torch.testing.assert_close((values - level.unsqueeze(1)).clamp_min(0).sum(1), radius)


def test_it_is_the_level_of_the_projection_on_the_ball() -> None:
    delta = torch.randn(20, 1, 8, 9, generator=torch.Generator().manual_seed(1))
    radius = torch.linspace(0.1, 30, 20)
    level = soft_level(delta.flatten(1).abs(), radius).reshape(-1, 1, 1, 1)
    mine = delta.sign() * (delta.abs() - level).clamp_min(0)
    torch.testing.assert_close(mine, NORMS["l1"].project(delta, radius), atol=1e-5, rtol=1e-5)


def test_rows_inside_of_the_ball_stay_and_a_radius_of_0_leaves_nothing() -> None:
    values = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])
    level = soft_level(values, torch.tensor([3.0, 9.0, 0.0, float("inf")]))
    assert level.tolist() == [0, 0, 0, 0]
    assert float(soft_level(values[:1], torch.zeros(1))) == pytest.approx(2.0, rel=1e-5)


def test_a_row_has_the_same_level_in_any_company() -> None:
    values = torch.rand(30, 100, generator=torch.Generator().manual_seed(2))
    radius = torch.linspace(0, 40, 30)
    alone = torch.cat([soft_level(values[i : i + 1], radius[i : i + 1]) for i in range(30)])
    assert torch.equal(soft_level(values, radius), alone)
