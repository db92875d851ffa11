"""What is asked of one cell: an attack, the scene that it meets, and the terms of the search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.evaluation.clean import Clean
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

AUDIT = 8
"""Of the certified samples those are attacked all the same whose index it divides: an unsound bound
shows there.
"""


@dataclass(frozen=True)
class Scene:
    """What all attacks find that meet one model on one data set, under one threat model."""

    model: DefendedModel
    threat: ThreatModel
    data: Dataset
    clean: Clean
    target: Tensor
    """The class that each sample is driven to, (N,); -1 for any wrong one."""
    behaviour: Behaviour
    """What ``model`` answers on probe images: nothing is continued that another network has left.
    """
    certified: Tensor | None = None
    """Proved robust, (N,) bool: such samples are not attacked but for some that check the proofs.
    """

    def __post_init__(self) -> None:
        if self.certified is not None and bool((self.certified & ~self.clean.correct).any()):
            raise ValueError("A sample that is classified wrong cannot be certified.")

    @property
    def open_rows(self) -> Tensor:
        """Samples that are attacked, (N,) bool."""
        if self.certified is None:
            return self.clean.correct
        return self.clean.correct & (~self.certified | (self.data.ids % AUDIT == 0))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms on which a search runs."""

    seed: int
    batch_size: int
    device: torch.device
    query_budget: int | None = None
    keep_adversarials: bool = False


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """The part of a cell that one stage of a suite is."""

    rows: Tensor
    """Samples that it sees, (N,) bool."""
    start: Tensor | None
    """Where it begins, (N, C, H, W); None: where its attack likes."""
    spent: Tensor
    """Queries of the stages before, (N,) int64."""
    draw: int
    """Number of its first restart."""
    keep_lowest: bool
    """A later stage begins at points that this one has seen."""


@dataclass(frozen=True)
class Job:
    """Everything that one cell needs: an attack, what it meets, and on what terms."""

    key: str
    scene: Scene
    attack: Attack
    terms: Terms
    adaptive: bool = True
    """False for an attacker that ignores what the model declares; the judge never does."""
    part: StageTask | None = None
    """For a stage of a suite; None for a whole cell."""

    @property
    def open_rows(self) -> Tensor:
        """Samples that it attacks, (N,) bool."""
        return self.scene.open_rows if self.part is None else self.part.rows
