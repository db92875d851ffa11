from typing import Self

import pytest
import torch
from torch import Tensor

from robustbench_lite.errors import UnknownNameError
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.threat import NORMS, norm_by_name
from robustbench_lite.threat.norms import largest

DELTA = torch.tensor([[[[3.0, 0.0], [-4.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])


@pytest.mark.parametrize(("name", "size"), [("linf", 4.0), ("l2", 5.0), ("l1", 7.0), ("l0", 2.0)])
def test_sizes_are_those_of_the_textbook(name: str, size: float) -> None:
    assert NORMS[name].size(DELTA).tolist() == [size, 0.0]


@pytest.mark.parametrize(("name", "size"), [("linf", 7.0), ("l2", 5.0), ("l1", 4.0), ("l0", 7.0)])
def test_dual_sizes_are_those_of_the_textbook(name: str, size: float) -> None:
    assert NORMS[name].dual_size(DELTA).tolist() == [size, 0.0]


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_the_dual_size_is_what_a_step_along_the_steepest_direction_gains(name: str) -> None:
    step = NORMS[name].steepest(DELTA)
    gained = (step * DELTA).flatten(1).sum(1)
    torch.testing.assert_close(gained, NORMS[name].dual_size(DELTA))


@pytest.mark.parametrize(
    ("name", "eps", "expected"),
    [
        ("linf", 2.0, [3.0, -4.0]),
        ("l2", 2.5, [3.0, -4.0]),
        ("l1", 3.0, [3.0, -4.0]),
        ("l0", 1, [3.0, -4.0]),
    ],
)
def test_projections_are_those_of_the_textbook(
    name: str, eps: float, expected: list[float]
) -> None:
    moved = {"linf": [2.0, -2.0], "l2": [1.5, -2.0], "l1": [1.0, -2.0], "l0": [0.0, -4.0]}[name]
    flat = NORMS[name].project(DELTA, eps)[0].flatten()
    assert flat[[0, 2]].tolist() == pytest.approx(moved)
    assert flat[[1, 3]].tolist() == [0.0, 0.0]
    assert NORMS[name].project(DELTA, 100)[0].flatten()[[0, 2]].tolist() == expected


@pytest.mark.parametrize("name", sorted(NORMS))
def test_each_row_can_have_its_own_radius(name: str) -> None:
    delta = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    radius = torch.tensor([0.0, 1.0, 3.0])
    each = torch.cat([NORMS[name].project(delta[i : i + 1], float(radius[i])) for i in range(3)])
    torch.testing.assert_close(NORMS[name].project(delta, radius), each)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_no_gradient_gives_no_direction(name: str) -> None:
    assert not NORMS[name].steepest(torch.zeros(2, 1, 3, 3)).any()


def test_tiny_gradients_still_give_a_direction_of_length_one() -> None:
    grad = torch.full((1, 1, 3, 3), 1e-30)
    assert NORMS["l2"].size(NORMS["l2"].steepest(grad)).item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["l1", "l0"])
def test_sparse_steps_pass_over_blocked_coordinates(name: str) -> None:
    grad = torch.tensor([[[[1.0, 5.0, -3.0]]]])
    step = NORMS[name].steepest(grad, grad == 5.0)
    assert step.flatten().tolist() == [0.0, 0.0, -1.0]


@pytest.mark.parametrize("name", sorted(NORMS))
def test_random_points_fill_the_ball_and_stay_inside(name: str) -> None:
    like, eps = torch.zeros(200, 1, 3, 3), 2.0
    size = NORMS[name].size(
        NORMS[name].random(like, eps, SampleRng.create(0, "test", torch.arange(200)), 0)
    )
    assert size.max() <= eps + NORMS[name].tolerance(eps)
    assert size.max() > 0.95 * eps


def test_an_l0_change_counts_pixels_not_channels() -> None:
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, :, 0, 1] = 0.5
    assert NORMS["l0"].size(delta).item() == 1


def test_an_unknown_norm_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'linf'"):
        norm_by_name("lnf")


def test_names_are_read_in_any_case() -> None:
    assert norm_by_name("Linf") == NORMS["linf"]
    assert norm_by_name("L2") != NORMS["linf"]


@pytest.mark.parametrize("seed", range(5))
def test_of_equal_values_the_first_are_the_largest(seed: int) -> None:
    """As many ties as there are places: a sort that is not stable gets them wrong."""
    values = torch.randint(0, 3, (20, 500), generator=torch.Generator().manual_seed(seed)).float()
    rows: list[list[float]] = values.tolist()
    expected = [sorted(range(500), key=lambda i, row=row: (-row[i], i))[:60] for row in rows]  # type: ignore[misc]
    assert largest(values, 60).tolist() == expected


def test_an_l1_step_at_equal_gradients_moves_the_first_coordinates() -> None:
    step = NORMS["l1"].steepest(torch.ones(3, 1, 20, 20))
    assert step.flatten(1).nonzero()[:, 1].reshape(3, 4).tolist() == [[0, 1, 2, 3]] * 3


def test_random_pixels_of_equal_draws_are_the_first() -> None:
    class Even:
        def uniform(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
            return torch.full((2, *shape), 0.25)

        normal = uniform

        def mirrored(self) -> Self:
            return self

    points = NORMS["l0"].random(torch.zeros(2, 1, 30, 30), 5, Even(), 0)
    assert points.flatten(1).nonzero()[:, 1].reshape(2, 5).tolist() == [[0, 1, 2, 3, 4]] * 2
