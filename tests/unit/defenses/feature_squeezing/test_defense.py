"""Feature squeezing: the squeezers do what the paper's do, the detector keeps its promise, and
attacks see through both.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import robustbench_lite as rbl
from rbl_defenses.feature_squeezing.defense import FeatureSqueezing
from rbl_defenses.feature_squeezing.detector import Detector, detection_scores, roc_area
from rbl_defenses.feature_squeezing.non_local_means import NonLocalMeans
from rbl_defenses.feature_squeezing.squeezers import BitDepth, Median, mirrored
from rbl_defenses.feature_squeezing.stand_ins import SoftBitDepth, StraightThrough
from robustbench_lite.defense.composition import defense_from
from robustbench_lite.errors import UsageError
from robustbench_lite.sources.models import reference_model
from tests.conftest import images, small_network


@pytest.mark.parametrize(("bits", "levels"), [(1, 2), (2, 4), (3, 8), (8, 256)])
def test_rounding_leaves_as_many_levels_as_the_bits_can_say(bits: int, levels: int) -> None:
    x = torch.linspace(0, 1, 5000).reshape(1, 1, 50, 100)
    rounded = BitDepth(bits)(x)
    assert len(rounded.unique()) == levels
    assert float((rounded - x).abs().max()) <= 0.5 / (levels - 1) + 1e-6


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(size: int) -> None:
    x = images(3, (2, 9, 7))
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
    assert torch.equal(Median(size)(x), torch.from_numpy(expected))


def test_a_border_may_be_wider_than_the_image() -> None:
    x = images(2, (1, 3, 2))
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (5, 4), (5, 4)), mode="symmetric")
    assert torch.equal(mirrored(x, 5, 4), torch.from_numpy(expected))


def slow_non_local_means(image: np.ndarray, search: int, patch: int, strength: float) -> np.ndarray:
    """(C, H, W), literally by the formula."""
    half, reach = search // 2, patch // 2
    wide = np.pad(image, ((0, 0), *[(half + reach, half + reach)] * 2), mode="symmetric").astype(
        np.float64
    )
    _, height, width = image.shape
    out = np.zeros(image.shape)

    def patch_at(i: int, j: int) -> np.ndarray:
        return wide[:, i - reach : i + reach + 1, j - reach : j + reach + 1]

    for i in range(height):
        for j in range(width):
            p, q = i + half + reach, j + half + reach
            total = 0.0
            for k in range(p - half, p + half + 1):
                for m in range(q - half, q + half + 1):
                    weight = np.exp(-((patch_at(p, q) - patch_at(k, m)) ** 2).mean() / strength**2)
                    out[:, i, j] += weight * wide[:, k, m]
                    total += weight
            out[:, i, j] /= total
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_means_is_its_formula(channels: int) -> None:
    x = images(2, (channels, 6, 5))
    found = NonLocalMeans(5, 3, 0.3)(x)
    for image, expected in zip(found, x, strict=True):
        np.testing.assert_allclose(
            image.numpy(), slow_non_local_means(expected.numpy(), 5, 3, 0.3), atol=1e-5
        )


def test_non_local_means_has_its_exact_gradient() -> None:
    x = images(1, (1, 4, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(NonLocalMeans(3, 3, 0.5), x)


@pytest.mark.parametrize("squeezer", [BitDepth(1), BitDepth(3)])
def test_a_stand_in_shows_the_squeezed_image_and_has_a_gradient(squeezer: BitDepth) -> None:
    for stand_in in (SoftBitDepth(squeezer), StraightThrough(squeezer)):
        x = images(4).requires_grad_()
        shown = stand_in(x)
        torch.testing.assert_close(shown, squeezer(x))
        (gradient,) = torch.autograd.grad(shown.sum(), x)
        assert (gradient > 0).all()
    (flat,) = torch.autograd.grad(squeezer(x).sum(), x)
    assert not flat.any()


def test_the_gradient_of_the_rounding_is_steepest_where_the_rounded_value_changes() -> None:
    x = torch.tensor([0.5, 0.45, 0.3, 0.05]).reshape(1, 1, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(SoftBitDepth(BitDepth(1))(x).sum(), x)
    assert gradient.flatten().tolist() == sorted(gradient.flatten().tolist(), reverse=True)


@pytest.mark.parametrize(("bits", "eps"), [(3, 0.1), (1, 0.1)])
def test_rounding_looks_robust_to_plain_pgd_and_not_to_the_adaptive_one(
    bits: int, eps: float
) -> None:
    adaptive, plain = rbl.evaluate(
        data=small_data(),
        attacks="pgd steps=20",
        defenses=f"feature_squeezing bits={bits}",
        eps=eps,
        plain=True,
    ).cells
    assert plain.robust_accuracy > 0.85 * plain.clean_accuracy
    assert adaptive.robust_accuracy < 0.6 * plain.robust_accuracy


def small_data() -> rbl.Dataset:
    return rbl.load_dataset("fashion_mnist", limit=80)


def training() -> rbl.Dataset:
    return rbl.load_dataset("fashion_mnist", split="train")


class TestDetector:
    spec = "feature_squeezing bits=3 median=2 detect=true"

    def test_the_threshold_lets_the_wanted_share_of_training_images_pass(self) -> None:
        model, x = small_network(), images(400)
        defense = FeatureSqueezing(bits=1, median=2, detect=True, false_positives=0.1).calibrated(
            model, x
        )
        assert defense.threshold is not None
        flagged = detection_scores(model, defense.squeezers(), x) > defense.threshold
        assert 0.08 < flagged.float().mean() <= 0.1025
        assert not defense.calibrates

    def test_the_score_is_the_largest_l1_distance_to_the_probabilities_of_a_squeezed_version(
        self,
    ) -> None:
        model, x = small_network(), images(300)  # more than a batch
        rounded = (x * 1).round()
        median = torch.from_numpy(ndimage.median_filter(x.numpy(), (1, 1, 2, 2)))
        own, one, other = (model(image).softmax(1) for image in (x, rounded, median))
        expected = torch.maximum((own - one).abs().sum(1), (own - other).abs().sum(1))
        found = detection_scores(model, [BitDepth(1), Median(2)], x)
        torch.testing.assert_close(found, expected.detach())
        assert (
            (own - one).abs().sum(1) > (own - other).abs().sum(1)
        ).float().mean().item() not in (0, 1)

    def test_it_abstains_where_that_distance_is_above_the_threshold(self) -> None:
        model, x = small_network(), images(200)
        distance = (
            (model(x).softmax(1) - model((x * 3).round() / 3).softmax(1)).abs().sum(1).detach()
        )
        threshold = float(distance.median()) + 1e-4
        defended = FeatureSqueezing(bits=2, detect=True, threshold=threshold).wrap(model)
        declined = defended.module(x).argmax(1) == 3
        assert torch.equal(declined, distance > threshold)
        assert 90 < declined.sum() < 110

    def test_it_abstains_exactly_where_the_score_is_above_the_threshold(self) -> None:
        model, x = small_network(), images(200)
        defense = FeatureSqueezing(bits=1, median=2, detect=True, threshold=0.4)
        logits = defense.wrap(model).module(x)
        flagged = detection_scores(model, defense.squeezers(), x) > 0.4
        assert 0 < flagged.sum() < 200
        assert torch.equal(logits.argmax(1) == 3, flagged)
        torch.testing.assert_close(logits[:, :3], model(x))

    def test_its_stand_in_flags_the_same_images(self) -> None:
        model, x = small_network(), images(200)
        defended = FeatureSqueezing(bits=2, median=2, detect=True, threshold=0.4).wrap(model)
        assert defended.traits.surrogate is not None
        assert defended.traits.abstains
        seen, real = defended.traits.surrogate(x).argmax(1), defended.module(x).argmax(1)
        assert torch.equal(seen == 3, real == 3)

    def test_a_declined_clean_image_counts_as_wrong(self) -> None:
        always = FeatureSqueezing(bits=1, detect=True, threshold=0.0)
        assert rbl.evaluate(
            small_network(), (images(40), torch.zeros(40).long()), "fgsm", defenses=always, eps=0.01
        ).cells[0].clean_accuracy == pytest.approx(0, abs=0.05)

    def test_an_attack_succeeds_only_with_a_wrong_class_that_is_not_declined(self) -> None:
        cell = rbl.evaluate(
            data=small_data(),
            attacks="pgd steps=20",
            defenses=self.spec,
            eps=0.05,
            keep_adversarials=True,
            fit_data=training(),
        ).cells[0]
        y = small_data().y
        broken = torch.from_numpy(cell.clean_correct & ~cell.robust)
        parameters = cell.identity.defense.parameters
        defended = FeatureSqueezing(**parameters).wrap(
            reference_model("fashion_mnist", "none").module
        )
        answers = defended.module(cell.x_adv[broken]).argmax(1)  # type: ignore[index]
        assert len(answers) > 10
        assert (answers != y[broken]).all()
        assert (answers != 10).all()

    def test_it_stops_plain_pgd_more_often_than_the_joint_attack(self) -> None:
        adaptive, plain = rbl.evaluate(
            data=small_data(),
            attacks="pgd steps=40 loss=margin",
            norm="l2",
            eps=0.7,
            plain=True,
            fit_data=training(),
            defenses="feature_squeezing bits=3 median=3 detect=true false_positives=0.15",
        ).cells
        assert adaptive.robust_accuracy < plain.robust_accuracy - 0.2

    def test_without_training_images_the_message_says_what_to_give(self) -> None:
        with pytest.raises(UsageError, match="training images"):
            rbl.evaluate(
                small_network(), (images(20), torch.zeros(20).long()), defenses=self.spec, eps=0.1
            )

    def test_training_images_of_the_user_set_the_threshold(self) -> None:
        model, x = small_network(), images(40)
        data = (x, model(x).argmax(1))
        fit = (images(100, seed=5), torch.zeros(100).long())
        cell = rbl.evaluate(
            model, data, "pgd steps=3", defenses=self.spec, eps=0.02, fit_data=fit
        ).cells[0]
        assert "threshold=" in cell.defense
        assert isinstance(cell.identity.defense.parameters["threshold"], float)


def test_the_roc_area_counts_pairs() -> None:
    clean, adversarial = torch.tensor([0.0, 1, 1, 2]), torch.tensor([1.0, 3])
    pairs = [(a > c) + 0.5 * (a == c) for a in adversarial.tolist() for c in clean.tolist()]
    assert roc_area(clean, adversarial) == pytest.approx(sum(pairs) / len(pairs))
    assert roc_area(clean, clean) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        "bits=0",
        "bits=9",
        "median=1",
        "bits=none",
        "nlm=true nlm_search=4",
        "nlm=true nlm_strength=0",
        "threshold=1",
        "detect=true threshold=3",
        "detect=true false_positives=0",
    ],
)
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="feature_squeezing"):
        defense_from(f"feature_squeezing {text}")


def test_any_network_may_stand_behind_it() -> None:
    model: nn.Module = small_network((3, 7, 5))
    x = images(30, (3, 7, 5))
    cell = rbl.evaluate(
        model,
        (x, model(x).argmax(1)),
        "pgd steps=3",
        defenses="feature_squeezing bits=5 median=2",
        eps=0.02,
    )
    assert cell.cells[0].clean_accuracy > 0.3


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_value_of_8_bits_lies_half_way_between_two_levels(bits: int) -> None:
    """There rounding would hang on the last bit of the image."""
    values = torch.arange(256).double() / 255 * (2**bits - 1)
    assert ((values - values.floor() - 0.5).abs() > 1e-3).all()


@pytest.mark.parametrize(("threshold", "last"), [(2.0, 2.0 + 2.4e-7), (0.0, 1e-7)])
def test_a_score_that_is_the_threshold_but_for_rounding_declines_nothing(
    monkeypatch: pytest.MonkeyPatch, threshold: float, last: float
) -> None:
    monkeypatch.setattr(
        "rbl_defenses.feature_squeezing.detector.score",
        lambda versions: torch.tensor([last, threshold + 1e-4]),
    )
    out = Detector(nn.Flatten(), [nn.Identity()], threshold)(
        torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]])
    )
    assert out.argmax(1).tolist() == [0, 2]
