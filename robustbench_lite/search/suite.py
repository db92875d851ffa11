"""Suites: attacks one after the other, each on what the ones before have left.

A suite is one cell. Its record says which stage broke each sample, and what each stage cost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

from robustbench_lite import registry
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Attack, Kind, State
from robustbench_lite.search.fitted import FittedAttack
from robustbench_lite.search.query import Access, Answer, Query
from robustbench_lite.threat import ThreatModel, Untargeted

StartName = Literal["own", "previous", "lowest"]
WhenName = Literal["always", "alarm"]


ALARM = 1 / 10
"""By which share of its margin a sample comes nearer where gradients are not trusted."""


@dataclass(frozen=True)
class Stage:
    """One attack of a suite."""

    attack: Attack
    start: StartName = "own"
    """Where the attack begins: as it does alone; at the point nearest to success that the stage
    before has seen; or at the nearest of all stages.
    """
    draw: int = 0
    """Number of its first restart: stages of one attack take different random numbers."""
    when: WhenName = "always"
    """``alarm``: only on samples whose margin the last stage without gradients, with those that
    went on from its points, brought down by ``ALARM`` or more. There gradients mislead where they
    begin by themselves, and more of the same finds more. A sample's own margins alone decide.
    """
    cost: float = 1.0
    """Forward passes a sample that survives, about (a backward pass is two): for the end time."""

    @classmethod
    def of(
        cls,
        spec: str,
        *,
        start: StartName = "own",
        draw: int = 0,
        when: WhenName = "always",
        cost: float = 1.0,
    ) -> Stage:
        """Make a stage of a registered attack, ``"pgd steps=20"``."""
        return cls(registry.create("attack", spec), start, draw, when, cost)

    @property
    def sees_gradients(self) -> bool:
        """Whether its attack follows gradients."""
        return self.attack.access == Access.GRADIENT


@dataclass(frozen=True, kw_only=True)
class Suite(Attack[State]):
    """Base of suites; wherever an attack is named, a suite may be.

    Subclasses are frozen, keyword-only dataclasses; they say what their stages are.
    """

    access: ClassVar[Access] = Access.GRADIENT
    kind: ClassVar[Kind] = "fixed_eps"
    targeted: ClassVar[bool] = False
    #: False for a suite that stops early: what it leaves is "not attacked further", never robust.
    conclusive: ClassVar[bool] = True

    @abstractmethod
    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        """List the stages under ``threat``, in their order."""

    def check(self, threat: ThreatModel) -> None:
        if not isinstance(threat.goal, Untargeted):
            raise UsageError(f"{self.name} has no targeted mode: leave out --targeted.")
        for stage in self.stages(threat):
            self._check_stage(stage, threat)

    def _check_stage(self, stage: Stage, threat: ThreatModel) -> None:
        attack = stage.attack
        if isinstance(attack, Suite) or (isinstance(attack, FittedAttack) and attack.fits):
            raise UsageError(f"{attack.name} can be no stage of {self.name}: it must be run alone.")
        if threat.norm.name not in attack.norms:
            raise UsageError(
                f"{self.name} has the stage {attack.name}, which cannot work in "
                f"{threat.norm.name}: it does {', '.join(sorted(attack.norms))}."
            )
        if stage.start != "own" and not attack.starts_anywhere:
            raise UsageError(
                f"{attack.name} chooses its own start: the stage of {self.name} needs start=own."
            )
        attack.check(threat)

    def init(self, *_: Any) -> NoReturn:
        raise TypeError(f"{self.name} is a suite: its stages are run one after the other.")

    def ask(self, state: State) -> Query:
        return self.init()

    def tell(self, state: State, answer: Answer) -> State:
        return self.init()


def keeps_lowest(stages: Sequence[Stage], number: int) -> bool:
    """Tell whether a later stage asks how near the stage ``number`` has come, and where."""
    later = stages[number + 1 :]
    return any(stage.start == "lowest" or stage.when == "alarm" for stage in later) or any(
        stage.start == "previous" for stage in later[:1]
    )
