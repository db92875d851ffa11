"""Feature squeezing.

Xu, Evans and Qi 2018, "Feature squeezing: detecting adversarial examples in deep neural networks",
arXiv:1704.01155.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from rbl_defenses.feature_squeezing.detector import AgreeingDetector, Detector, detection_scores
from rbl_defenses.feature_squeezing.non_local_means import NonLocalMeans
from rbl_defenses.feature_squeezing.squeezers import BitDepth, Median
from rbl_defenses.feature_squeezing.stand_ins import stand_in_for
from robustbench_lite.defense import DefendedModel, Defense, Traits, Wrapper
from robustbench_lite.errors import UsageError
from robustbench_lite.search import SampleRng


@dataclass(frozen=True, kw_only=True)
class FeatureSqueezing(Defense):
    """Classifies the squeezed image: fewer bits, a median filter, non-local means, one after the
    other as far as they are set.

    With ``detect`` the image is classified as it is, and each squeezer is put beside it alone:
    where the probabilities of a squeezed version are too far from those of the image (the largest
    L1 distance, equation 1), the network abstains. A clean image that it declines counts as wrong;
    an attack succeeds only with a wrong class that is not declined.

    An attack follows gradients of a stand-in: a staircase with steep ramps for the rounding, the
    identity for non-local means, the median's own; for the detector the mean log-probabilities of
    all versions, and the score itself.

    Args:
        bits: bits a value, 1 to 8; ``none`` leaves rounding out.
        median: side of the median filter, 2 or more; ``none`` leaves it out.
        nlm: whether non-local means is used.
        nlm_search: side of its search window, odd.
        nlm_patch: side of the patches that it compares, odd.
        nlm_strength: difference, in input units, at which the weight of a patch has fallen to 1 /
            e.
        detect: abstain where squeezing changes the prediction, instead of classifying the squeezed
            image.
        false_positives: share of clean training images that the detector may decline: this sets the
            threshold.
        threshold: the score above which it abstains, in [0, 2]; ``none`` sets it on clean training
            images.
    """

    name: ClassVar[str] = "feature_squeezing"
    paper: ClassVar[str] = "Xu et al. 2018, arXiv:1704.01155"

    bits: int | None = 4
    median: int | None = None
    nlm: bool = False
    nlm_search: int = 13
    nlm_patch: int = 3
    nlm_strength: float = 2 / 255
    detect: bool = False
    false_positives: float = 0.05
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise UsageError(f"feature_squeezing needs bits from 1 to 8, or none, not {self.bits}.")
        if self.median is not None and self.median < 2:
            given = f"not {self.median}"
            raise UsageError(
                f"feature_squeezing needs a median of at least 2 pixels, or none, {given}."
            )
        sides = self.nlm_search, self.nlm_patch
        if min(sides) < 1 or any(side % 2 == 0 for side in sides):
            given = f"not {self.nlm_search}, {self.nlm_patch}"
            raise UsageError(f"feature_squeezing needs odd nlm_search and nlm_patch, {given}.")
        if not self.nlm_strength > 0:
            raise UsageError(
                f"feature_squeezing needs an nlm_strength above 0, not {self.nlm_strength}."
            )
        if self.bits is None and self.median is None and not self.nlm:
            raise UsageError("feature_squeezing squeezes nothing: set bits, median or nlm=true.")
        if not 0 < self.false_positives < 1:
            given = f"not {self.false_positives}"
            raise UsageError(
                f"feature_squeezing needs false_positives (a share) in (0, 1), {given}."
            )
        if self.threshold is not None and not (self.detect and 0 <= self.threshold <= 2):
            given = f"not {self.threshold}"
            raise UsageError(
                f"feature_squeezing takes a threshold in [0, 2], with detect=true, {given}."
            )

    @property
    def calibrates(self) -> bool:
        return self.detect and self.threshold is None

    def calibrated(self, model: nn.Module, images: Tensor) -> FeatureSqueezing:
        scores = detection_scores(model, self.squeezers(), images).sort().values
        allowed = int(self.false_positives * len(scores))
        # Four digits: the threshold goes into keys, and the last bits of a score differ between
        # machines.
        return replace(self, threshold=float(f"{float(scores[-1 - allowed]):.4g}"))

    def wrap(self, model: nn.Module) -> DefendedModel:
        real = self.squeezers()
        stand_in = self.stand_ins()
        if not self.detect:
            return DefendedModel(Squeezed(model, real), Traits(surrogate=Squeezed(model, stand_in)))
        if self.threshold is None:
            raise UsageError(
                "feature_squeezing detect=true sets its threshold on clean training images, and "
                "there are none: give fit_data=(x_train, y_train), a data set with a training "
                "split, or threshold=1.2."
            )
        surrogate = AgreeingDetector(model, stand_in, self.threshold)
        detector = Detector(model, real, self.threshold)
        return DefendedModel(detector, Traits(surrogate=surrogate, abstains=True))

    def squeezers(self) -> list[nn.Module]:
        """Make those that are set."""
        chosen: list[nn.Module] = []
        if self.bits is not None:
            chosen.append(BitDepth(self.bits))
        if self.median is not None:
            chosen.append(Median(self.median))
        if self.nlm:
            chosen.append(NonLocalMeans(self.nlm_search, self.nlm_patch, self.nlm_strength))
        return chosen

    def stand_ins(self) -> list[nn.Module]:
        """Make what attacks follow instead of each, with gradients that lead somewhere."""
        return [stand_in_for(squeezer) for squeezer in self.squeezers()]


class Squeezed(Wrapper):
    """A network that sees the squeezed image."""

    def __init__(self, model: nn.Module, squeezers: Sequence[nn.Module]) -> None:
        super().__init__(model)
        self.squeeze = nn.Sequential(*squeezers)

    def in_sequence(self) -> tuple[nn.Module, ...]:
        return self.squeeze, self.model

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        return self.inner(self.squeeze(x), rng)
