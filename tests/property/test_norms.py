import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.threat import NORMS

names = st.sampled_from(sorted(NORMS))
seeds = st.integers(0, 2**31)
radii = st.floats(0.01, 5.0)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


def drawn(seed: int, shape: tuple[int, int, int], rows: int = 4, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def radius_for(name: str, eps: float) -> float:
    return float(round(eps)) if name == "l0" else eps


@given(names, seeds, shapes, radii)
def test_projection_ends_inside_and_a_second_one_moves_nothing(
    name: str, seed: int, shape: tuple[int, int, int], eps: float
) -> None:
    norm, eps = NORMS[name], radius_for(name, eps)
    once = norm.project(drawn(seed, shape, scale=3.0), eps)
    assert (norm.size(once) <= eps + norm.tolerance(eps)).all()
    torch.testing.assert_close(norm.project(once, eps), once, atol=1e-5, rtol=1e-5)


@given(names, seeds, shapes, st.floats(0.1, 0.99))
def test_projection_leaves_points_inside_and_on_the_boundary_alone(
    name: str, seed: int, shape: tuple[int, int, int], share: float
) -> None:
    norm, delta = NORMS[name], drawn(seed, shape)
    size = norm.size(delta)
    torch.testing.assert_close(norm.project(delta, size), delta, atol=1e-5, rtol=1e-5)
    if name != "l0":
        torch.testing.assert_close(
            norm.project(delta * share, size), delta * share, atol=1e-6, rtol=1e-6
        )


@given(st.sampled_from(["l1", "l2", "linf"]), seeds, shapes, radii)
@settings(max_examples=50)
def test_projection_is_nearer_than_other_points_of_the_ball(
    name: str, seed: int, shape: tuple[int, int, int], eps: float
) -> None:
    norm, delta = NORMS[name], drawn(seed, shape, scale=3.0)
    nearest = (norm.project(delta, eps) - delta).flatten(1).norm(dim=1)
    rng = SampleRng.create(seed, "test", torch.arange(len(delta)))
    for draw in range(5):
        other = norm.random(delta, eps, rng, draw)
        between = norm.project(delta, eps) * 0.9 + other * 0.1
        for point in (other, between):
            assert (nearest <= (point - delta).flatten(1).norm(dim=1) + 1e-4).all()


@given(names, seeds, shapes)
def test_steepest_direction_has_size_one_and_rises(
    name: str, seed: int, shape: tuple[int, int, int]
) -> None:
    norm, grad = NORMS[name], drawn(seed, shape)
    step = norm.steepest(grad)
    torch.testing.assert_close(norm.size(step), torch.ones(len(grad)))
    assert ((step * grad).flatten(1).sum(1) > 0).all()


@given(st.sampled_from([("linf", "l1"), ("l2", "l2")]), seeds, shapes)
def test_no_direction_of_size_one_rises_faster_than_the_steepest(
    pair: tuple[str, str], seed: int, shape: tuple[int, int, int]
) -> None:
    name, dual = pair
    grad = drawn(seed, shape)
    gain = (NORMS[name].steepest(grad) * grad).flatten(1).sum(1)
    torch.testing.assert_close(gain, NORMS[dual].size(grad), rtol=1e-4, atol=1e-5)


@given(names, seeds, shapes, radii)
def test_random_points_lie_inside(
    name: str, seed: int, shape: tuple[int, int, int], eps: float
) -> None:
    norm, eps = NORMS[name], radius_for(name, eps)
    point = norm.random(
        torch.zeros(4, *shape), eps, SampleRng.create(seed, "test", torch.arange(4)), 3
    )
    assert (norm.size(point) <= eps + norm.tolerance(eps)).all()
