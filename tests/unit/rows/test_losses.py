import pytest
import torch

from robustbench_lite.rows.losses import LOSSES, LossName, margin

NONE = torch.tensor([-1])


def test_margin_is_negative_only_when_another_class_wins() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    y = torch.zeros(3, dtype=torch.int64)
    assert margin(logits, y, NONE.expand(3)).tolist() == [1.0, -1.0, 0.0]


def test_targeted_margin_is_negative_only_when_the_target_wins() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    y = torch.zeros(3, dtype=torch.int64)
    assert margin(logits, y, torch.ones_like(y)).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("target", [-1, 1])
def test_every_loss_rises_towards_the_goal(name: LossName, classes: int, target: int) -> None:
    logits = torch.linspace(3, 0, classes)[None].requires_grad_()
    loss = LOSSES[name](logits, torch.tensor([0]), torch.tensor([target]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient[0, 1] > 0  # the other class, or the target
    assert gradient.isfinite().all()
    assert target == 1 or gradient[0, 0] < 0


@pytest.mark.parametrize("others", [-1, 0, 2], ids=["untargeted", "the same", "targeted"])
def test_class_0_is_a_target_like_any_other(others: int) -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [2.0, 1.0, 0.5]]).repeat(2, 1)
    y, target = torch.tensor([1, 1, 1, 1]), torch.tensor([0, 0, others, others])
    assert margin(logits, y, target)[:2].tolist() == [1.0, -1.0]
    alone = torch.zeros(2, dtype=torch.int64)
    assert margin(logits[:2], y[:2], alone).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("rows", [1, 2], ids=["alone", "beside an untargeted row"])
def test_every_loss_rises_towards_class_0_where_that_is_the_target(
    name: LossName, rows: int
) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).repeat(rows, 1).requires_grad_()
    loss = LOSSES[name](logits, torch.tensor([1, 1])[:rows], torch.tensor([0, -1])[:rows])
    (gradient,) = torch.autograd.grad(loss[0], logits)
    assert gradient[0, 0] > 0
    assert gradient[0, 0] == gradient[0].max()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_does_not_look_at_the_neighbours(name: LossName) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    y, target = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([-1, 2, -1, 0, -1, 3])
    alone = torch.cat(
        [LOSSES[name](logits[i : i + 1], y[i : i + 1], target[i : i + 1]) for i in range(6)]
    )
    assert torch.equal(LOSSES[name](logits, y, target), alone)


@pytest.mark.parametrize("target", [-1, 2])
def test_saturated_cross_entropy_still_has_a_gradient(target: int) -> None:
    logits = torch.tensor([[4000.0, 1000.0, 0.0]], requires_grad=True)
    loss = LOSSES["ce"](logits, torch.tensor([0]), torch.tensor([target]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().sum() > 0.5


def test_the_smallest_cross_entropy_above_0_is_not_saturated_on_either_side_of_its_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, y = torch.tensor([[15.94, 0.0]], requires_grad=True), torch.tensor([0])
    smallest = torch.tensor(2.0**-23)
    for value in (
        smallest,
        torch.nextafter(smallest, torch.tensor(0.0)),
        torch.nextafter(smallest, torch.tensor(1.0)),
    ):
        monkeypatch.setattr(
            torch.nn.functional, "cross_entropy", lambda z, *_, v=value, **__: z[:, 1] * 0 + v
        )
        assert LOSSES["ce"](logits, y, NONE).item() == value.item()
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda z, *_, **__: z[:, 1] * 0)
    assert LOSSES["ce"](logits, y, NONE).item() == pytest.approx(-15.94)


def test_cross_entropy_equals_torch_where_it_is_not_saturated() -> None:
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8)
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.equal(LOSSES["ce"](logits, y, NONE.expand(8)), expected)


def test_ratio_of_logits_does_not_change_with_their_scale() -> None:
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(2))
    y, target = torch.arange(8), torch.tensor([-1, 3, -1, 5, -1, 7, -1, 9])
    ratio = LOSSES["dlr"]
    torch.testing.assert_close(ratio(1000 * logits, y, target), ratio(logits, y, target))


def test_of_equal_logits_the_first_gets_the_gradient_of_dlr() -> None:
    """Of 60 classes 20 each have the logits 2, 1 and 0: the third largest is class 6, and a sort
    that is not stable errs.
    """
    logits = (2.0 - torch.arange(60).float() % 3).unsqueeze(0).requires_grad_()
    loss = LOSSES["dlr"](logits, torch.tensor([1]), torch.tensor([-1]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.nonzero()[:, 1].tolist() == [0, 1, 6]
