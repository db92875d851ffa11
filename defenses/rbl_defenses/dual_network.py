"""Training with the dual network.

Wong and Kolter 2018, "Provable defenses against adversarial examples via the convex outer
adversarial polytope", arXiv:1711.00851; projections: Wong et al. 2018, "Scaling provable
adversarial defenses", arXiv:1805.12514.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.bounds.training import Effort, margin_bounds
from robustbench_lite.defense import Defense, TrainingBatch
from robustbench_lite.errors import UsageError
from robustbench_lite.threat import ThreatModel, norm_by_name
from robustbench_lite.training.trainer import evaluating

_SHARES = ("warmup", "interval_until", "dual_from", "clean_weight")


@dataclass(frozen=True, kw_only=True)
class DualNetwork(Defense):
    """Minimise the cross-entropy at a bound of the worst point of the ball: arg-min_w E L(-J(e_y
    1^T - I), y).

    J, the dual objective, is a lower bound of every margin over the ball. With gradients it costs
    as much as tens of passes through the network, so two cheaper bounds bring the network near
    first (a warm start, as in CROWN-IBP, arXiv:1906.06316): intervals, and the dual network's last
    pass over hidden bounds by intervals.

    Args:
        norm: norm of the ball: ``linf`` or ``l2``.
        eps: its radius in input units.
        warmup: share of the training over which the radius rises linearly from 0. The full radius
            from the first step can leave a network at chance (loss 2.3 for ten classes).
        interval_until: share of the training, from its start, whose bound is by intervals alone.
        dual_from: share of the training after which the bound is J itself; 0 is the paper's
            training.
        clean_weight: weight of the cross-entropy on clean images beside that of the bound. It falls
            linearly from 1 to this over the warm-up.
        box: perturbed images also stay within [0, 1]; the paper's bound covers the whole ball.
        projections: hidden bounds of J are estimated by so many random projections, where a layer
            is too wide for one row a unit; 0 computes them, for the open units only.
        settled: margins that intervals prove to be at least this are left at that (the loss stays a
            bound, and they hardly count in it): the cost goes to the classes and images that are
            still open. ``inf`` is the paper's loss.
    """

    name: ClassVar[str] = "dual_network"
    trains: ClassVar[bool] = True
    paper: ClassVar[str] = "Wong and Kolter 2018, arXiv:1711.00851"

    norm: str = "linf"
    eps: float = 0.1
    warmup: float = 0.5
    interval_until: float = 0.5
    dual_from: float = 0.7
    clean_weight: float = 0.0
    box: bool = False
    projections: int = 0
    settled: float = math.inf

    def __post_init__(self) -> None:
        if norm_by_name(self.norm).name not in ("linf", "l2"):
            raise UsageError(f"dual_network has no bound for norm={self.norm}: use linf or l2.")
        if not self.eps > 0:
            raise UsageError(
                f"dual_network needs eps above 0, not {self.eps}: eps=0.1, or eps=8/255."
            )
        for field in _SHARES:
            share = getattr(self, field)
            if not 0 <= share <= 1:
                raise UsageError(f"dual_network needs {field}, a share, in [0, 1], not {share}.")
        if not self.settled >= 0:
            raise UsageError(
                f"dual_network needs settled (a margin) of at least 0, not {self.settled}."
            )
        if self.projections < 0:
            raise UsageError(
                f"dual_network needs projections of at least 0, not {self.projections}."
            )

    def certifier(self, threat: ThreatModel) -> Certifier | None:
        """Prove with every bound there is, for balls of the norm that was trained for."""
        return BoundCertifier() if threat.norm == norm_by_name(self.norm) else None

    def radius(self, progress: float) -> float:
        """Give the radius after the share ``progress`` of the training."""
        return self.eps * self._risen(progress)

    def bound(self, progress: float) -> str:
        """Name the bound after the share ``progress`` of the training."""
        if progress >= self.dual_from:
            return "dual"
        return "ibp" if progress < self.interval_until else "crown-ibp-chord"

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        effort = Effort(
            bound=self.bound(batch.progress), projections=self.projections, settled=self.settled
        )
        with evaluating(model):  # a bound is of the network as it is deployed, and of one image
            margins = margin_bounds(
                model,
                batch.x,
                batch.y,
                norm=norm_by_name(self.norm),
                eps=self.radius(batch.progress),
                effort=effort,
                box=self.box,
            )
        robust: Tensor = F.cross_entropy(-margins, batch.y)
        clean = 1 - (1 - self.clean_weight) * self._risen(batch.progress)
        if clean == 0:
            return robust
        return (1 - clean) * robust + clean * F.cross_entropy(model(batch.x), batch.y)

    def _risen(self, progress: float) -> float:
        """Give the share of its way that the warm-up has gone."""
        return 1.0 if progress >= self.warmup else progress / self.warmup
