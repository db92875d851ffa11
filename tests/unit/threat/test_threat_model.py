"""Threat models and goals."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite.errors import UsageError
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import NORMS, Targeted, ThreatModel, Untargeted, goal_from
from tests.conftest import images


@pytest.mark.parametrize("eps", ["-1", -0.1, "nan", "inf", "eight", "1/0"])
def test_a_radius_that_is_none_is_refused(eps: str | float) -> None:
    with pytest.raises(UsageError, match="eps"):
        ThreatModel.parse("linf", eps)


def test_an_l0_radius_counts_pixels() -> None:
    assert ThreatModel.parse("l0", "3").eps == 3
    with pytest.raises(UsageError, match="pixels"):
        ThreatModel.parse("l0", 0.5)


def test_eps_may_be_written_as_a_fraction() -> None:
    assert ThreatModel.parse("Linf", "8/255").eps == pytest.approx(8 / 255)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_a_projected_point_lies_in_the_ball_and_in_the_bounds(norm: str) -> None:
    threat = ThreatModel.parse(norm, 1)
    x = images(5)
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 3
    assert bool((threat.excess(threat.project(far, x), x) <= 0).all())
    assert bool((threat.excess(far, x) > 0).all())


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_a_random_start_lies_in_the_ball(norm: str) -> None:
    threat = ThreatModel.parse(norm, 1)
    x = images(20)
    start = threat.random_start(x, SampleRng.create(0, "t", torch.arange(20)))
    assert bool((threat.excess(start, x) <= 0).all())
    assert bool((threat.norm.size(start - x) > 0).all())


def test_nan_never_counts_as_inside() -> None:
    x = images(2)
    broken = x.clone()
    broken[0, 0, 0, 0] = float("nan")
    assert (ThreatModel.parse("l2", 1).excess(broken, x) <= 0).tolist() == [False, True]


@pytest.mark.parametrize("text", ["untargeted", "random", "least_likely", "class:3"])
def test_goals_survive_their_text_form(text: str) -> None:
    assert goal_from(text).spec() == text


def test_a_goal_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="least_likely"):
        goal_from("most_likely")


def test_targets_are_never_the_true_class() -> None:
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(500) % 4
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(1))
    random = Targeted("random").targets(logits, y, uniform)
    assert not bool((random == y).any())
    assert torch.bincount((random - y) % 4, minlength=4)[1:].min() > 120
    least = Targeted("least_likely").targets(logits, y, uniform)
    assert not bool((least == y).any())
    assert bool((Untargeted().targets(logits, y, uniform) == -1).all())


def test_a_fixed_class_leaves_out_its_own_samples() -> None:
    assert Targeted("class", 2).applies_to(torch.tensor([0, 2, 1])).tolist() == [True, False, True]
    with pytest.raises(UsageError, match="classes 0 to 3"):
        Targeted("class", 9).targets(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1))


@pytest.mark.parametrize(
    ("eps", "said"), [("8", "did you mean 8/255"), (255, "did you mean 255/255"), (1.0001, "at most 1"), (300, "at most 1")]
)
def test_a_linf_radius_that_reaches_every_image_is_asked_about(eps: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ThreatModel.parse("linf", eps)  # type: ignore[arg-type]
    assert ThreatModel.parse("linf", 1).eps == 1
    assert ThreatModel.parse("l2", 8).eps == 8
