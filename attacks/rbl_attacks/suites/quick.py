"""The first stages of the standard suite, for training loops and gates: it stops early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rbl_attacks.suites.standard import opening
from robustbench_lite.search import Stage, Suite
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Quick(Suite):
    """What costs least and breaks most: the first four stages of ``standard``.

    What it leaves was not attacked further, and its accuracy is an upper bound: a gate that holds
    under it may fail under ``standard``. Cost a sample that survives: 460 forward passes, with a
    backward pass counted as two.
    """

    name: ClassVar[str] = "quick"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    conclusive: ClassVar[bool] = False
    paper: ClassVar[str] = "after Croce and Hein 2020, arXiv:2003.01690"

    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        return tuple(opening(threat))
