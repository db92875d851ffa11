"""Steps of Adam: the optimizer of torch takes the same ones, in every order of operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_lite.search.adam import (
    TINY,
    AdamStep,
    Moments,
    adam_update,
    adam_update_folded,
    adam_update_in_place,
)

RATE = 0.03
START = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
AIM = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))

Update = Callable[[Moments, Tensor, Tensor], AdamStep]


def at_rate_one(moments: Moments, gradient: Tensor, count: Tensor) -> AdamStep:
    return adam_update(moments, gradient, count, 1.0)


def gradient_at(values: Tensor) -> Tensor:
    return 3 * (values - AIM)


def follow_torch(steps: int) -> Tensor:
    values = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([values], lr=RATE)
    for _ in range(steps):
        values.grad = gradient_at(values.detach())
        optimizer.step()
    return values.detach()


def follow_as_printed(steps: int) -> Tensor:
    values, moments = START, Moments.fresh(START)
    for count in range(1, steps + 1):
        move, moments = adam_update(moments, gradient_at(values), torch.tensor(count), RATE)
        values = values - move
    return values


def follow_folded(steps: int) -> Tensor:
    values, moments = START, Moments.fresh(START)
    for count in range(1, steps + 1):
        move, moments = adam_update_folded(moments, gradient_at(values), torch.tensor(float(count)))
        values = values - RATE * move
    return values


def follow_in_place(steps: int, scale: float = 0.25) -> Tensor:
    values, moments = START.clone(), Moments.fresh(START)
    for step in range(1, steps + 1):
        gradient, count = scale * gradient_at(values), torch.full((5,), step)
        adam_update_in_place(
            values,
            moments,
            gradient,
            count,
            RATE,
            scale=scale,
            scratch=torch.full_like(values, float("nan")),
        )
    return values


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("follow", [follow_as_printed, follow_folded, follow_in_place])
def test_torchs_own_optimizer_takes_the_same_steps(
    follow: Callable[[int], Tensor], steps: int
) -> None:
    torch.testing.assert_close(follow(steps), follow_torch(steps), rtol=0, atol=1e-4)


@pytest.mark.parametrize("update", [at_rate_one, adam_update_folded])
def test_the_first_step_is_as_long_as_the_rate_whatever_the_gradient(update: Update) -> None:
    gradient = torch.tensor([[3.0, -1e-3, 40.0]])
    move, moments = update(Moments.fresh(gradient), gradient, torch.tensor(1.0))
    torch.testing.assert_close(move, torch.tensor([[1.0, -1.0, 1.0]]), rtol=1e-3, atol=0)
    torch.testing.assert_close(moments.mean, 0.1 * gradient)
    torch.testing.assert_close(moments.square, 0.001 * gradient**2)


@pytest.mark.parametrize("scale", [0.25, 1.0, 8.0])
def test_a_scaled_gradient_in_place_takes_the_steps_of_the_gradient(scale: float) -> None:
    small = torch.full((2, 4), 3 * TINY)  # so small that TINY counts
    values, moments = torch.zeros(2, 4), Moments.fresh(small)
    adam_update_in_place(
        values,
        moments,
        scale * small,
        torch.tensor([1, 1]),
        1.0,
        scale=scale,
        scratch=torch.empty(2, 4),
    )
    torch.testing.assert_close(
        -values, adam_update(Moments.fresh(small), small, torch.tensor(1.0), 1.0).move
    )


def test_each_row_is_at_a_step_of_its_own() -> None:
    gradient = torch.full((3, 2), 0.5)
    count = torch.tensor([[1.0], [10.0], [1000.0]])
    for update in (at_rate_one, adam_update_folded):
        together = update(Moments.fresh(gradient), gradient, count).move
        for row in range(3):
            alone = update(Moments.fresh(gradient[:1]), gradient[:1], count[row : row + 1]).move
            assert torch.equal(together[row : row + 1], alone)
    values = torch.zeros(3, 2)
    adam_update_in_place(
        values,
        Moments.fresh(values),
        gradient.clone(),
        count.squeeze(1),
        1.0,
        scale=1.0,
        scratch=torch.empty(3, 2),
    )
    assert len(set(values[:, 0].tolist())) == 3
