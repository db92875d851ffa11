"""What the adversary wants: any wrong class, or one class in particular."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustbench_lite.errors import UsageError


class Goal(ABC):
    """Says which class each row is driven to; -1 stands for "any but the true one"."""

    @abstractmethod
    def targets(self, logits: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
        """Choose the class that each row must reach.

        Args:
            logits: those of the clean images, (B, K).
            y: their classes, (B,).
            uniform: one random number a row, (B,).

        Returns:
            (B,) int64; -1 for any but the true one.
        """

    @abstractmethod
    def spec(self) -> str:
        """Write it: ``untargeted``, ``random``, ``least_likely`` or ``class:K``."""

    def applies_to(self, y: Tensor) -> Tensor:
        """Mark the samples that the goal makes sense for, (N,) bool.

        The others are not part of the cell.
        """
        return torch.ones_like(y, dtype=torch.bool)


@dataclass(frozen=True)
class Untargeted(Goal):
    """Any class but the true one."""

    def targets(self, logits: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
        return torch.full_like(y, -1)

    def spec(self) -> str:
        return "untargeted"


@dataclass(frozen=True)
class Targeted(Goal):
    """One class in particular."""

    rule: Literal["random", "least_likely", "class"] = "random"
    """Drawn at random among the wrong ones, the least likely one, or a fixed one."""
    class_index: int = -1
    """The fixed one."""

    def __post_init__(self) -> None:
        if (self.rule == "class") != (self.class_index >= 0):
            raise UsageError(
                "A fixed target is written class:K with K >= 0, for example --targeted class:3."
            )

    def targets(self, logits: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
        classes = logits.shape[1]
        if self.rule == "class":
            if self.class_index >= classes:
                raise UsageError(
                    f"Target class {self.class_index} does not exist: the model has classes 0 to "
                    f"{classes - 1}."
                )
            return torch.full_like(y, self.class_index)
        if self.rule == "least_likely":
            return logits.scatter(1, y[:, None], float("inf")).argmin(1)
        wrong = (uniform.to(torch.float64) * (classes - 1)).to(torch.int64).clamp(max=classes - 2)
        return wrong + (wrong >= y).to(torch.int64)

    def applies_to(self, y: Tensor) -> Tensor:
        return y != self.class_index

    def spec(self) -> str:
        return f"class:{self.class_index}" if self.rule == "class" else self.rule


def goal_from(value: Any) -> Goal:
    """Make a goal of what a user writes.

    Args:
        value: ``None``, ``False`` or "untargeted"; ``True`` or "random"; "least_likely"; "class:3"
            or 3; a Goal.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, Goal):
        return value
    if value is None or value is False or value == "untargeted":
        return Untargeted()
    if value is True or value == "random":
        return Targeted("random")
    if value == "least_likely":
        return Targeted("least_likely")
    match = re.fullmatch(r"(?:class:)?([0-9]{1,9})", str(value))
    if match:
        return Targeted("class", int(match[1]))
    raise UsageError(
        f"The goal is {value!r}; it can be untargeted, random, least_likely or class:K."
    )
