"""The L1 ball and the image bounds together: the projection is held against a slow exact one."""

import pytest
import torch
from torch import Tensor

from robustbench_lite.threat import L1
from robustbench_lite.threat.box import project_l1_in_box


def images(rows: int, seed: int = 0) -> Tensor:
    """Many values at the bounds."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.rand(rows, 2, 3, 5, generator=generator) - 1).clamp(0, 1)


def changes(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 2, 3, 5, generator=torch.Generator().manual_seed(seed))


def by_halving(delta: Tensor, eps: float, x: Tensor) -> Tensor:
    """The same level by 200 bisections in float64, one row at a time."""
    out = []
    for d, image in zip(delta.double(), x.double(), strict=True):
        room = torch.where(d > 0, 1 - image, image)
        low, high = torch.tensor(0.0).double(), d.abs().max()
        if torch.minimum(d.abs(), room).sum() <= eps:
            high = low
        for _ in range(200):
            level = (low + high) / 2
            size = torch.minimum(d.abs() - level, room).clamp_min(0).sum()
            low, high = (level, high) if size > eps else (low, level)
        out.append(d.sign() * torch.minimum(d.abs() - high, room).clamp_min(0))
    return torch.stack(out).float()


@pytest.mark.parametrize("eps", [0.05, 1.0, 4.0, 9.0, 1000.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_it_is_the_nearest_point_of_both(eps: float, scale: float) -> None:
    x = images(20)
    delta = scale * changes(20)
    found = project_l1_in_box(delta, torch.full((20,), eps), x)
    torch.testing.assert_close(found, by_halving(delta, eps, x), atol=1e-5 * scale, rtol=1e-5)


def test_what_the_bounds_cut_off_is_not_lost_to_the_ball() -> None:
    x, delta = images(20), changes(20)
    both = project_l1_in_box(delta, torch.full((20,), 3.0), x)
    ball = (x + L1().project(delta, 3.0)).clamp(0, 1) - x
    assert (L1().size(both) - 3.0).abs().max() < 1e-5
    assert ((both - delta).flatten(1).norm(dim=1) <= (ball - delta).flatten(1).norm(dim=1)).all()
    assert (L1().size(ball) < 2.9).any()


def test_what_is_inside_stays_where_it_is() -> None:
    x = images(20)
    delta = (x + 0.01 * changes(20)).clamp(0, 1) - x
    assert torch.equal(project_l1_in_box(delta, torch.full((20,), 5.0), x), delta)


def test_rows_have_their_own_radii_and_do_not_depend_on_each_other() -> None:
    x, delta, eps = images(6), changes(6), torch.tensor([0.0, 0.1, 1.0, 2.0, 5.0, 100.0])
    together = project_l1_in_box(delta, eps, x)
    assert (L1().size(together) <= eps + 1e-5).all()
    for row in range(6):
        mine = slice(row, row + 1)
        alone = project_l1_in_box(delta[mine], eps[mine], x[mine])
        assert torch.equal(alone[0], together[row])


def test_of_a_radius_of_zero_nothing_is_left() -> None:
    assert not project_l1_in_box(changes(3), torch.zeros(3), images(3)).any()


def test_without_looks_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, delta, eps = images(20), changes(20), torch.full((20,), 2.0)
    looking = project_l1_in_box(delta, eps, x)
    monkeypatch.setattr("robustbench_lite.threat.box.surely_all", lambda claims: False)
    assert torch.equal(project_l1_in_box(delta, eps, x), looking)
