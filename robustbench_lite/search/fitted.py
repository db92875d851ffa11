"""Attacks that make something of training images before they search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search.attack import Attack, S
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Fit:
    """Where a fit stands: everything that its next step needs."""

    step: int
    """Steps taken, of ``of``."""
    of: int
    result: Tensor
    """What it has come to so far."""
    tensors: Mapping[str, Tensor]
    """What the next step needs besides, such as the moments of Adam."""


@dataclass(frozen=True, kw_only=True)
class FittedAttack(Attack[S]):
    """Base of attacks that make something of training images before the search.

    Whoever runs the attack calls ``fit`` and puts the last ``result`` into a copy of it; ``init``
    to ``tell`` use that.
    """

    fitted: Tensor | None = field(
        default=None, repr=False, compare=False, metadata={"hyperparameter": False}
    )

    @property
    def fits(self) -> bool:
        """False for hyper-parameters with which there is nothing to fit."""
        return True

    @abstractmethod
    def fit(
        self,
        passes: Passes,
        images: Points,
        threat: ThreatModel,
        seed: int,
        start: Fit | None = None,
    ) -> Iterator[Fit]:
        """Fit, going on from ``start``; yield after every step.

        The result depends on the images, the seed and the hyper-parameters alone.

        Args:
            passes: the model.
            images: clean training images that the model classifies correctly, with their classes,
                the class to reach (-1: none) and their data-set indices.
            threat: what the perturbation may be.
            seed: for all that is drawn.
            start: where an earlier fit stood.
        """

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        """Tell whether a fit that was read from a file has tensors of the right names and shapes.

        Args:
            fit: what was read.
            shape: that of an image, (C, H, W).
            threat: what the perturbation may be.
        """
        return fit.result.is_floating_point()


@dataclass(frozen=True, kw_only=True)
class UniversalAttack(FittedAttack[S]):
    """Base of attacks with one perturbation for all images, which is what they are fitted to."""

    draws: int = 1
    """Tries that an image gets with the fitted perturbation, one query each."""

    def picture(self, perturbation: Tensor) -> Tensor:
        """Make what is shown of a perturbation.

        Returns:
            (C, H, W) in [0, 1]; or one channel more, which says how opaque it is.
        """
        return perturbation
