"""The detector of feature squeezing (Xu, Evans and Qi 2018, arXiv:1704.01155, section III).

A network that declines to answer where squeezing the image changes its probabilities too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_lite.defense import Wrapper
from robustbench_lite.search import SampleRng

_BATCH = 256
_WEIGHT = 10.0
"""What a unit of the score weighs against logits.

No verdict depends on it; it keeps clear of float32's last bits.
"""
_ROUNDING = 1e-6
"""By how much a score is above the threshold at least.

One of exactly 2, or of 0, comes out on either side of that.
"""
_GENTLE = 0.5
"""``_WEIGHT`` of the stand-in.

The joint attack is strongest where the classes pull harder (docs/explanation/adaptive.md).
"""


class Detector(Wrapper):
    """A network with one more logit, the largest where the score is above the threshold."""

    def __init__(self, model: nn.Module, squeezers: Sequence[nn.Module], threshold: float) -> None:
        super().__init__(model)
        self.squeezers = nn.ModuleList(squeezers)
        self.threshold = threshold

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        versions = self.versions(x, rng)
        logits = versions[0]
        excess = score(versions) - (self.threshold + _ROUNDING)
        abstention = logits.amax(1) + _WEIGHT * excess
        return torch.cat([logits, abstention.unsqueeze(1)], dim=1)  # (B, K + 1)

    def versions(self, x: Tensor, rng: SampleRng | None = None) -> list[Tensor]:
        """Ask for the logits of the image and of each squeezed version, (B, K) each."""
        # A copy: a network may write over its input, and the image is still to be squeezed.
        return [
            self.inner(x.clone(), rng),
            *(self.inner(squeezer(x), rng) for squeezer in self.squeezers),
        ]


class AgreeingDetector(Detector):
    """What an attack follows: it leads all versions to the same wrong class.

    That also brings the score down. Probabilities of 0 and 1 leave the score flat;
    log-probabilities have a gradient there. For an image that is declined the leading logit counts
    as a constant in the abstention: else it would cancel the pull of the leading wrong class, in
    all versions, and leave the flat score alone.
    """

    def forward(self, x: Tensor, rng: SampleRng | None = None) -> Tensor:
        versions = self.versions(x, rng)
        logits = torch.stack([version.log_softmax(1) for version in versions]).mean(0)
        abstention = logits.amax(1).detach() + _GENTLE * (score(versions) - self.threshold)
        return torch.cat([logits, abstention.unsqueeze(1)], dim=1)


def score(versions: list[Tensor]) -> Tensor:
    """Score an image by the largest change of its probabilities under a squeezer.

    Returns:
        The L1 distance, (B,) in [0, 2].
    """
    image, *squeezed = (logits.softmax(1) for logits in versions)
    return torch.stack([(image - other).abs().sum(1) for other in squeezed]).amax(0)


@torch.no_grad()
def detection_scores(model: nn.Module, squeezers: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Score each image as the detector does, (N,)."""
    detector = Detector(model, squeezers, 0.0)
    parts = []
    for start in range(0, len(images), _BATCH):
        x = images[start : start + _BATCH]
        index = torch.arange(start, start + len(x), device=x.device)
        rng = SampleRng.create(0, "calibration", index)
        parts.append(score(detector.versions(x, rng)))
    return torch.cat(parts)


def roc_area(clean: Tensor, adversarial: Tensor) -> float:
    """Take the area under the ROC curve.

    It says how often an adversarial image (M,) scores above a clean one (N,); ties count half.
    """
    ordered = clean.sort().values
    below = torch.searchsorted(ordered, adversarial).double()
    up_to = torch.searchsorted(ordered, adversarial, right=True).double()
    return float((below + up_to).mean() / (2 * len(clean)))
