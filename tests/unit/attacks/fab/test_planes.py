"""Moves to a plane within the bounds, against linear and quadratic programs."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from rbl_attacks.fab.planes import moves_to_plane

SIZE = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}


def problem(seed: int, count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand(count, generator=generator)
    point[:2] = torch.tensor([0.0, 1.0])
    gradient = torch.randn(count, generator=generator)
    gradient[3] = 0
    return point, gradient


def most(point: Tensor, gradient: Tensor, sign: float) -> float:
    """The largest gain that the bounds allow."""
    way = (gradient * sign).sign()
    room = torch.where(way > 0, 1 - point, point)
    return float((gradient.abs() * room).sum())


def least(norm: str, point: Tensor, gradient: Tensor, gain: float) -> float:
    """The size of the smallest move, by scipy."""
    low, high, slope = (-point).numpy(), (1 - point).numpy(), gradient.double().numpy()
    count = len(slope)
    if norm == "l2":
        equal = {"type": "eq", "fun": lambda d: slope @ d - gain, "jac": lambda _: slope}
        options: Any = {"ftol": 1e-12, "maxiter": 500}
        found = minimize(
            lambda d: d @ d,
            np.zeros(count),
            jac=lambda d: 2 * d,
            bounds=list(zip(low, high, strict=True)),
            constraints=[equal],
            method="SLSQP",
            options=options,
        )
        return float(np.sqrt(found.fun))
    width = 1 if norm == "linf" else count
    spread = np.ones((count, 1)) if norm == "linf" else np.eye(count)
    above = np.block([[np.eye(count), -spread], [-np.eye(count), -spread]])
    bounds = [*zip(low, high, strict=True), *[(0, None)] * width]
    found = linprog(
        [0] * count + [1] * width,
        A_ub=above,
        b_ub=np.zeros(2 * count),
        A_eq=[[*slope, *[0] * width]],
        b_eq=[gain],
        bounds=bounds,
    )
    return float(found.fun)


@pytest.mark.parametrize("norm", sorted(SIZE))
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_a_move_reaches_the_plane_within_the_bounds_and_none_is_smaller(
    norm: str, sign: float, share: float
) -> None:
    for seed in range(8):
        point, gradient = problem(seed)
        gain = sign * share * most(point, gradient, sign)
        moves = moves_to_plane(norm, point[None, None], gradient[None], torch.tensor([[gain]]))
        move = moves[0, 0]
        assert float(move @ gradient) == pytest.approx(gain, rel=1e-4)
        assert (point + move).min() >= -1e-6
        assert (point + move).max() <= 1 + 1e-6
        size = float(torch.linalg.vector_norm(move, ord=SIZE[norm]))
        assert size == pytest.approx(least(norm, point, gradient, gain), rel=1e-3)


@pytest.mark.parametrize("norm", sorted(SIZE))
def test_a_plane_out_of_reach_is_approached_as_far_as_the_bounds_allow(norm: str) -> None:
    for seed in range(5):
        point, gradient = problem(seed)
        gain = torch.tensor([[2 * most(point, gradient, 1.0)]])
        move = moves_to_plane(norm, point[None, None], gradient[None], gain)[0, 0]
        expected = torch.where(gradient > 0, 1 - point, -point).masked_fill(gradient == 0, 0)
        torch.testing.assert_close(move, expected)


@pytest.mark.parametrize("norm", sorted(SIZE))
@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_the_scale_of_the_function_does_not_matter(norm: str, scale: float) -> None:
    point, gradient = problem(3)
    gain = torch.tensor([[0.5 * most(point, gradient, 1.0)]])
    plain = moves_to_plane(norm, point[None, None], gradient[None], gain)
    scaled = moves_to_plane(norm, point[None, None], gradient[None] * scale, gain * scale)
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", sorted(SIZE))
def test_no_gradient_or_no_gain_gives_no_move(norm: str) -> None:
    point, gradient = problem(0)
    for slope, gain in ((gradient * 0, 1.0), (gradient, 0.0)):
        move = moves_to_plane(norm, point[None, None], slope[None], torch.tensor([[gain]]))
        assert not move.any()


@pytest.mark.parametrize("norm", sorted(SIZE))
def test_a_row_moves_the_same_way_in_any_company(norm: str) -> None:
    generator = torch.Generator().manual_seed(9)
    points = torch.rand(20, 2, 40, generator=generator)
    gradient = torch.randn(20, 40, generator=generator)
    gain = torch.randn(20, 2, generator=generator) * 3
    alone = [
        moves_to_plane(norm, points[i, None], gradient[i, None], gain[i, None]) for i in range(20)
    ]
    assert torch.equal(moves_to_plane(norm, points, gradient, gain), torch.cat(alone))
