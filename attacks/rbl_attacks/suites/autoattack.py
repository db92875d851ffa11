"""AutoAttack: four attacks with the constants that the field compares by.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv:2003.01690; in L1 Croce and Hein 2021, "Mind the box: l1-APGD for
sparse adversarial attacks on image classifiers", arXiv:2103.01208.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.search import Stage, Suite
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Suite):
    """APGD on the cross-entropy, APGD and FAB towards single classes, and Square.

    The standard version of the authors, each stage on what the ones before have left: APGD-CE with
    100 steps, APGD-T with the DLR towards 9 classes, FAB-T towards 9, Square with 5,000 queries; in
    L1 five restarts of APGD-CE and 5 classes of APGD-T. Among fewer classes there are fewer to go
    to, and where the DLR needs more classes than there are it is the margin.

    Cost a sample that survives: 11,700 forward passes, with a backward pass counted as two.
    """

    name: ClassVar[str] = "autoattack"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    paper: ClassVar[str] = "Croce and Hein 2020, arXiv:2003.01690"

    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        sparse = threat.norm.name == "l1"
        restarts = 5 if sparse else 1
        classes = 5 if sparse else 9
        return (
            Stage.of(f"apgd loss=ce restarts={restarts}", cost=300 * restarts),
            Stage.of(f"apgd loss=dlr targets=top:{classes}", cost=300 * classes),
            Stage.of("fab targets=top:9", cost=2700),
            Stage.of("square queries=5000 rescale=false", cost=5000),
        )
