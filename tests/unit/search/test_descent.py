"""Schedules and directions of descents."""

import math

import pytest
import torch

from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.descent import anneal, unit_direction


def test_a_cosine_leads_from_the_first_value_to_the_last_each_row_at_its_own_step() -> None:
    step = torch.tensor([0, 25, 50, 100])
    expected = [2.0, 1 + math.cos(math.pi / 4), 1.0, 0.0]
    assert anneal(step, 100, 2.0, 0.0).tolist() == pytest.approx(expected, abs=1e-6)
    assert anneal(step, 100, 1.0, 3.0).tolist()[::3] == pytest.approx([1.0, 3.0])


def test_directions_have_length_1_and_a_gradient_of_0_gets_a_random_one() -> None:
    gradient = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    gradient[0] *= 1e-30
    gradient[1] = 0
    rng = SampleRng.create(0, "test", torch.arange(3))
    first, second = (unit_direction(gradient, rng, torch.full((3,), step)) for step in (0, 1))
    torch.testing.assert_close(first.flatten(1).norm(dim=1), torch.ones(3))
    expected = gradient[2] / gradient[2].norm()
    torch.testing.assert_close(first[2], expected)
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert not torch.allclose(first[1], second[1])
