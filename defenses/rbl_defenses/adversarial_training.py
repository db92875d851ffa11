"""Adversarial training.

Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks",
arXiv:1706.06083.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite import registry
from robustbench_lite.defense import Defense, TrainingBatch
from robustbench_lite.errors import UsageError
from robustbench_lite.search import Attack
from robustbench_lite.search.lock_step import check_lock_step, craft
from robustbench_lite.threat import ThreatModel
from robustbench_lite.training.trainer import evaluating


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Minimise the loss at the worst point of the ball: arg-min_w E max_{|delta| <= eps} L(w, x +
    delta, y).

    Args:
        norm: norm of the ball: ``linf``, ``l2`` or ``l1``.
        eps: its radius in input units.
        attack: the inner attack, as text. The paper's CIFAR-10 count of 7 steps; the step defaults
            to 2.5 eps / steps.
        warmup: share of the training over which the radius rises linearly from 0. The full radius
            from the first step can leave a small network at chance (loss 2.3 for ten classes).
    """

    name: ClassVar[str] = "adversarial_training"
    trains: ClassVar[bool] = True
    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    norm: str = "linf"
    eps: float = 0.1
    attack: str = field(default="pgd steps=7", metadata={"spec": "attack"})
    warmup: float = 0.3

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise UsageError(
                f"adversarial_training needs eps above 0, not {self.eps}: eps=0.1, or eps=8/255."
            )
        if not 0 <= self.warmup <= 1:
            raise UsageError(
                "adversarial_training needs warmup, a share of training, in [0, 1], not "
                f"{self.warmup}."
            )
        check_lock_step(
            self._attack(), ThreatModel.parse(self.norm, self.eps), "adversarial_training"
        )

    def radius(self, progress: float) -> float:
        """The radius after the share ``progress`` of the training."""
        return self.eps if progress >= self.warmup else self.eps * progress / self.warmup

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        threat = ThreatModel.parse(self.norm, self.radius(batch.progress))
        # In train mode the attack would move batch statistics, and each image's attack would depend
        # on its neighbours.
        with evaluating(model):
            x_adv = craft(
                model,
                self._attack(),
                batch.x,
                batch.y,
                threat,
                index=batch.index,
                seed=batch.seed,
                restart=batch.epoch,
            )
        loss: Tensor = F.cross_entropy(model(x_adv), batch.y)
        return loss

    def _attack(self) -> Attack:
        # Text of a file was looked at before it came here: the field is marked as a spec.
        attack: Attack = registry.create("attack", self.attack, registry.Trust.INSTALLED)
        return attack
