"""Threat models and goals."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from robustbench_lite.errors import UsageError
from robustbench_lite.rows.rng import SampleRng
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


def test_a_radius_remembers_how_it_was_written_and_is_the_same_radius() -> None:
    written, plain = ThreatModel.parse("linf", "8/255"), ThreatModel.parse("linf", 8 / 255)
    assert (written.written, plain.written, ThreatModel.parse("l2", None).written) == (
        "8/255",
        str(8 / 255),
        None,
    )
    assert written == plain
    assert hash(written) == hash(plain)


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


@pytest.mark.parametrize("eps", [None, 100.0])
@pytest.mark.parametrize(
    ("value", "inside"), [(-0.001, False), (0.0, True), (1.0, True), (1.001, False)]
)
def test_what_is_below_0_or_above_1_is_outside_however_large_the_ball(
    eps: float | None, value: float, inside: bool
) -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0, 0, 1, 0] = value
    assert bool(ThreatModel.parse("l2", eps).excess(x_adv, x) <= 0) == inside


def test_a_pixel_counts_once_whichever_of_its_channels_change() -> None:
    delta = torch.zeros(3, 3, 2, 2)
    delta[1, 0, 0, 0] = delta[2, :, 1, 1] = delta[2, 1, 0, 1] = 0.1
    assert NORMS["l0"].size(delta).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0), ("l0", 3.0)])
def test_the_ball_ends_at_its_radius(norm: str, eps: float) -> None:
    threat, x = ThreatModel.parse(norm, eps), torch.full((1, 1, 6, 6), 0.5)
    changed = torch.zeros_like(x)
    changed.flatten()[: int(eps) if norm == "l0" else 36] = 0.01
    changed = changed if norm == "l0" else changed * (eps / float(threat.norm.size(changed)))
    assert bool((threat.excess(x + changed, x) <= 0).all())
    beyond = (
        changed * 1.001 if norm != "l0" else changed.flip(3).roll(1, 2) * (changed == 0) + changed
    )
    assert bool((threat.excess(x + beyond, x) > 0).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_random_starts_are_spread_over_the_ball_as_its_volume_is(norm: str) -> None:
    # Of D coordinates, the share t of the radius holds the share t^D of the volume.
    x = torch.full((4000, 1, 2, 3), 0.5)
    delta = (
        ThreatModel.parse(norm, 0.25).random_start(x, SampleRng.create(0, "t", torch.arange(4000)))
        - x
    )
    volume = (NORMS[norm].size(delta) / 0.25).double() ** 6
    assert stats.kstest(volume.numpy(), "uniform").pvalue > 1e-3
    assert float(delta.mean().abs()) < 0.005  # and to all sides
    assert 0.48 < float((delta > 0).double().mean()) < 0.52


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
        Targeted("class", 9).targets(
            torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        )


@pytest.mark.parametrize(
    ("eps", "said"),
    [
        ("8", "did you mean 8/255"),
        (255, "did you mean 255/255"),
        (1.0001, "at most 1"),
        (300, "at most 1"),
    ],
)
def test_a_linf_radius_that_reaches_every_image_is_asked_about(eps: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ThreatModel.parse("linf", eps)  # type: ignore[arg-type]
    assert ThreatModel.parse("linf", 1).eps == 1
    assert ThreatModel.parse("l2", 8).eps == 8
