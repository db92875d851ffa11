"""The standard suite: the worst case over methods that find different samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.search import Stage, Suite, WhenName
from robustbench_lite.threat import ThreatModel

HYBRIDS = 3
"""Rounds of large squares, and gradient steps from where they end."""
ROUNDS = 4
"""Further rounds of squares and gradients, each only while the one before broke something."""
NEAREST = {"l2": ("ddn steps=40", 120), "l1": ("pdpgd steps=60", 180)}
"""Norm -> a search for the nearest adversarial, and its cost."""
LABELS = {"l2": "boundary steps=3000", "linf": "rays queries=3000"}
"""Norm -> a search that sees labels alone."""


@dataclass(frozen=True, kw_only=True)
class Standard(Suite):
    """Gradients away from the class, towards the nearest classes, from where squares end; scores.

    Each method finds samples that the others miss; more restarts of one loss find none. APGD on the
    cross-entropy and on the margin towards the three nearest classes (arXiv:2407.02240); in L2 DDN,
    in L1 PDPGD; three times a hundred large squares with PGD of long steps from where they end;
    Square from the point nearest to success so far, and PGD from there. A sample that these brought
    a tenth nearer gets up to four longer rounds of both, and labels alone. In L0
    sigma-zero, FMN and Sparse-RS, and for one pixel all of them. The order is that of success over
    cost, on networks that no published figure is of: ``python benchmarks/suite.py`` prints, stage
    by stage, what it broke and cost.

    Cost a sample that survives: 2,150 forward passes, with a backward pass counted as two, a fifth
    of AutoAttack's; up to 17,000 more where an alarm rings.
    """

    name: ClassVar[str] = "standard"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1", "l0"})
    paper: ClassVar[str] = "after Croce and Hein 2020, arXiv:2003.01690"

    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        if threat.norm.name == "l0":
            return tuple(_few_pixels(threat))
        return (*opening(threat), *_closing(threat))


def opening(threat: ThreatModel) -> Iterator[Stage]:
    """List the stages that cost least and break most.

    Where the networks mislead gradients a long way, squares and long steps lead out of it.
    """
    yield Stage.of("apgd steps=30 loss=ce", cost=90)
    yield Stage.of("apgd steps=20 loss=margin targets=malt:3", cost=210)
    if threat.norm.name in NEAREST:
        spec, cost = NEAREST[threat.norm.name]
        yield Stage.of(spec, cost=cost)
    yield Stage.of("square queries=100", cost=100)
    yield _long_steps(threat)


def _closing(threat: ThreatModel) -> Iterator[Stage]:
    for draw in range(1, HYBRIDS):
        yield Stage.of("square queries=100", draw=draw, cost=100)
        yield _long_steps(threat, draw)
    yield Stage.of("square queries=1300", start="lowest", draw=HYBRIDS, cost=1300)
    yield _long_steps(threat, HYBRIDS)
    for draw in range(HYBRIDS + 1, HYBRIDS + 1 + ROUNDS):
        spec = "square queries=3500"
        yield Stage.of(spec, start="lowest", draw=draw, when="alarm", cost=3500)
        yield _long_steps(threat, draw, "alarm")
    if threat.norm.name in LABELS:
        yield Stage.of(LABELS[threat.norm.name], when="alarm", cost=3300)


def _long_steps(threat: ThreatModel, draw: int = 0, when: WhenName = "always") -> Stage:
    """PGD on the margin from the last squares: steps of eps / 4 cross the ball."""
    spec = f"pgd steps=20 loss=margin step_size={threat.radius / 4!r}"
    return Stage.of(spec, start="previous", draw=draw, when=when, cost=60)


def _few_pixels(threat: ThreatModel) -> Iterator[Stage]:
    yield Stage.of("sigma_zero steps=100", cost=300)
    yield Stage.of("fmn steps=100", cost=300)
    if threat.radius == 1:
        yield Stage.of("one_pixel search=exhaustive", cost=1500)
    else:
        yield Stage.of("sparse_rs queries=3000", cost=3000)
