"""The defense protocol: what a defense may change, declare and certify.

It may change training, change inference, say what an attacker must know, and bring a certifier.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class TrainingBatch:
    """What a training loss sees of one step."""

    x: Tensor
    """Images, (B, C, H, W) in [0, 1]."""
    y: Tensor
    """Labels, (B,)."""
    index: Tensor
    """Data-set indices, (B,): they key the per-sample generator."""
    progress: float
    """Share of the training that is done, in [0, 1): schedules such as an eps warm-up depend on it
    alone.
    """
    epoch: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """Base of every defense: frozen, keyword-only dataclasses of hyper-parameters.

    All hooks default to "no change".
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    #: The defense acts in training: it needs weights that were trained with it.
    trains: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 -- "no change" is the default
        """Before the first training step, in place: initialisation or layer scaling."""

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        """The scalar that one training step lowers."""
        loss: Tensor = F.cross_entropy(model(batch.x), batch.y)
        return loss

    def after_step(self, model: nn.Module) -> None:  # noqa: B027 -- "no change" is the default
        """After each optimiser step, in place: a projection or retraction."""

    @property
    def calibrates(self) -> bool:
        """Whether something is still to be set from clean training images: a threshold, say.

        Nothing is deployed before.
        """
        return False

    def calibrated(self, model: nn.Module, images: Tensor) -> Defense:
        """This defense with that set, as a hyper-parameter, so that records hold it.

        ``model`` is the network that it will stand before, in eval mode; ``images`` (N, C, H, W)
        are on its device.
        """
        return self

    def wrap(self, model: nn.Module) -> DefendedModel:
        """The network as it is deployed, with what it declares."""
        return DefendedModel(model, Traits())

    def certifier(self, threat: ThreatModel) -> Certifier | None:
        """Bring what proves networks under this defense robust against ``threat``.

        ``None`` where nothing is known.
        """
        return None
