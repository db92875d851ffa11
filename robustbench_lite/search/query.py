"""What an attack asks of the model, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

from robustbench_lite.rows.losses import Loss


class Access(IntEnum):
    """How much of the model an attack sees; each level includes the ones below."""

    LABELS = 1
    SCORES = 2
    GRADIENT = 3


class Neighbours(NamedTuple):
    """Says that each point of a query differs in one pixel at most from one image a row.

    Networks may answer such queries several times as fast (``model.fast.incremental``).
    """

    base: Tensor
    """(B, C, H, W)."""
    place: Tensor
    """The pixel of each point that may differ, row times width plus column, (B, P) int64."""


@dataclass(frozen=True)
class Query:
    """Points to put to the model, and what is wanted of each.

    ``points`` is (B, C, H, W), or (B, P, C, H, W) for several points a row. ``valid`` (B,) or (B,
    P) leaves points out: they are neither evaluated nor counted. ``loss`` is the loss whose values,
    or whose gradient too, are wanted; ``gradient_rows`` (B,) are the rows that want the gradient.
    ``beside`` tells that the points are neighbours of an image. With ``final`` the attack ends here
    whatever the answer is, so that the engine may leave the asking to the judge. ``toward`` (B,) or
    (B, P) is the class that the loss drives a point to, -1 for away from the true one, whatever the
    goal is that decides on success; None: the goal's. ``explores`` (B,) bool are rows whose points
    may leave the ball of a fixed-eps attack: steps on the way, of which none outside is a success.
    """

    points: Tensor
    access: Access
    loss: Loss | None = None
    gradient_rows: Tensor | None = None
    valid: Tensor | None = None
    beside: Neighbours | None = None
    final: bool = False
    toward: Tensor | None = None
    explores: Tensor | None = None

    @classmethod
    def labels(
        cls,
        points: Tensor,
        valid: Tensor | None = None,
        beside: Neighbours | None = None,
        final: bool = False,
    ) -> Query:
        """Ask only which class wins."""
        return cls(points, Access.LABELS, valid=valid, beside=beside, final=final)

    @classmethod
    def scores(
        cls,
        points: Tensor,
        valid: Tensor | None = None,
        loss: Loss | None = None,
        beside: Neighbours | None = None,
        toward: Tensor | None = None,
    ) -> Query:
        """Ask for logits, and for the values of a loss.

        Only the oracle knows the class that a row is to leave or to reach.
        """
        return cls(points, Access.SCORES, loss, valid=valid, beside=beside, toward=toward)

    @classmethod
    def gradient(
        cls,
        points: Tensor,
        loss: Loss,
        rows: Tensor | None = None,
        valid: Tensor | None = None,
        toward: Tensor | None = None,
        explores: Tensor | None = None,
    ) -> Query:
        """Ask for the gradient of a per-sample loss.

        Rows outside ``rows`` (B,) bool are only judged: a last iterate, say.
        """
        return cls(points, Access.GRADIENT, loss, rows, valid, toward=toward, explores=explores)


@dataclass(frozen=True)
class Answer:
    """What the oracle gives back, shaped as the query's points: () below stands for (B,) or (B, P).

    Entries of points that were not valid are undefined. ``logits`` and ``gradient`` are None above
    the attack's access.
    """

    success: Tensor
    """() bool: the point reaches the goal (whether or not it lies in the ball)."""
    labels: Tensor
    """() int64: the predicted class."""
    logits: Tensor | None = None
    """() + (K,)."""
    gradient: Tensor | None = None
    """Of the loss by the points, shaped as they are; 0 for rows that asked for none."""
    loss_of: Callable[[], Tensor] | None = None
    """For queries that name a loss: gives its values, (); most attacks never ask."""

    def need_logits(self) -> Tensor:
        """Take the logits.

        Raises:
            TypeError: the query asked for less.
        """
        if self.logits is None:
            raise TypeError("The query asked for no scores.")
        return self.logits

    def need_gradient(self) -> Tensor:
        """Take the gradient.

        Raises:
            TypeError: the query asked for less.
        """
        if self.gradient is None:
            raise TypeError("The query asked for no gradient.")
        return self.gradient

    def need_loss(self) -> Tensor:
        """Compute the values of the loss.

        Raises:
            TypeError: the query named none.
        """
        if self.loss_of is None:
            raise TypeError("The query named no loss.")
        return self.loss_of()
