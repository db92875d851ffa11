"""The detector of feature squeezing (Xu, Evans and Qi 2018, arXiv:1704.01155, section III).

A network that declines to answer where squeezing the image changes its probabilities too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_lite.model.defended import Wrapper
from robustbench_lite.rows.rng import SampleRng

_BATCH = 256
_WEIGHT = 10.0
"""What a unit of the score weighs against logits. No verdict depends on it; it keeps clear of
float32's last bits.
"""
_ROUNDING = 1e-6
"""A score is above the threshold by more than rounding: one of exactly 2, or of 0, comes out on
either side of that.
"""
_GENTLE = 0.5
"""The same for the stand-in: the joint attack is strongest where the classes pull harder
(docs/explanation/adaptive.md).
"""


class Detector(Wrapper):
    """The logits of a network and one more, the largest where the score is above the threshold: (B,
    K + 1).
    """

    def __init__(self, model: nn.Module, squeezers: Sequence[nn.Module], threshold: float) -> None:
        super().__init__(model)
        self.squeezers = nn.ModuleList(squeezers)
        self.threshold = threshold

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        versions = self.versions(x, rng)
        abstention = versions[0].amax(1) + _WEIGHT * (
            score(versions) - (self.threshold + _ROUNDING)
        )
        return torch.cat([versions[0], abstention.unsqueeze(1)], dim=1)

    def versions(self, x: Tensor, rng: SampleRng | None = None) -> list[Tensor]:
        """The logits of the image and of each squeezed version, (B, K) each."""
        # A copy: a network may write over its input, and the image is still to be squeezed.
        return [
            self.inner(x.clone(), rng),
            *(self.inner(squeezer(x), rng) for squeezer in self.squeezers),
        ]


class AgreeingDetector(Detector):
    """What an attack follows: all versions are led to the same wrong class, which also brings the
    score down.

    Probabilities of 0 and 1 leave the score flat; log-probabilities have a gradient there. For an
    image that is declined the leading logit counts as a constant in the abstention: else it would
    cancel the pull of the leading wrong class, in all versions, and leave the flat score alone.
    """

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        versions = self.versions(x, rng)
        logits = torch.stack([version.log_softmax(1) for version in versions]).mean(0)
        abstention = logits.amax(1).detach() + _GENTLE * (score(versions) - self.threshold)
        return torch.cat([logits, abstention.unsqueeze(1)], dim=1)


def score(versions: list[Tensor]) -> Tensor:
    """The largest L1 distance, (B,) in [0, 2], between the probabilities of the image and of a
    squeezed version.
    """
    image, *squeezed = (logits.softmax(1) for logits in versions)
    return torch.stack([(image - other).abs().sum(1) for other in squeezed]).amax(0)


@torch.no_grad()
def detection_scores(model: nn.Module, squeezers: Sequence[nn.Module], images: Tensor) -> Tensor:
    """The detector's score of each image, (N,)."""
    detector = Detector(model, squeezers, 0.0)
    parts = []
    for start in range(0, len(images), _BATCH):
        x = images[start : start + _BATCH]
        rng = SampleRng.create(
            0, "calibration", torch.arange(start, start + len(x), device=x.device)
        )
        parts.append(score(detector.versions(x, rng)))
    return torch.cat(parts)


def roc_area(clean: Tensor, adversarial: Tensor) -> float:
    """The area under the ROC curve: how often an adversarial image (M,) scores above a clean one
    (N,), ties half.
    """
    ordered = clean.sort().values
    below, up_to = (
        torch.searchsorted(ordered, adversarial, right=right).double() for right in (False, True)
    )
    return float((below + up_to).mean() / (2 * len(clean)))
