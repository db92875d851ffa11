"""The attack protocol: an attack asks, the oracle answers.

An attack never holds the model. It is a frozen dataclass of hyper-parameters with three methods
over a batch of rows; the engine may put any rows side by side, at different steps, and takes each
out as soon as it is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple

from torch import Tensor

from robustbench_lite.rows.losses import Loss
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.rows.rows import Rows
from robustbench_lite.threat import ThreatModel


class Access(IntEnum):
    """How much of the model an attack sees; each level includes the ones below."""

    LABELS = 1
    SCORES = 2
    GRADIENT = 3


Kind = Literal["fixed_eps", "minimal_distance"]
"""Whether a search stays in the ball, or looks for the nearest adversarial wherever it is."""


@dataclass(frozen=True)
class State(Rows):
    """Base of an attack's state: tensors with the row first."""

    finished: Tensor
    """Rows that ask nothing more, (B,) bool."""


if TYPE_CHECKING:  # typing has no default before Python 3.13, and only type checkers read it
    from typing_extensions import TypeVar

    S = TypeVar("S", bound=State, default=Any)
else:
    from typing import TypeVar

    S = TypeVar("S", bound=State)


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
    whatever the answer is, so that the engine may leave the asking to the judge.
    """

    points: Tensor
    access: Access
    loss: Loss | None = None
    gradient_rows: Tensor | None = None
    valid: Tensor | None = None
    beside: Neighbours | None = None
    final: bool = False

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
    ) -> Query:
        """Ask for logits, and for the values of a loss.

        Only the oracle knows the class that a row is to leave or to reach.
        """
        return cls(points, Access.SCORES, loss, valid=valid, beside=beside)

    @classmethod
    def gradient(
        cls, points: Tensor, loss: Loss, rows: Tensor | None = None, valid: Tensor | None = None
    ) -> Query:
        """Ask for the gradient of a per-sample loss.

        Rows outside ``rows`` (B,) bool are only judged: a last iterate, say.
        """
        return cls(points, Access.GRADIENT, loss, rows, valid)


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


@dataclass(frozen=True, kw_only=True)
class Attack(ABC, Generic[S]):
    """Base of every attack, whose rows have the state ``S``.

    Subclasses are frozen, keyword-only dataclasses of the paper's hyper-parameters.

    The oracle judges every point it answers and keeps the first success (or the nearest one, for a
    minimal-distance search), so an attack keeps no best-so-far, no success flags and stops no row
    early. A field ``restarts`` is honoured by the engine.
    """

    name: ClassVar[str]
    #: Raised whenever the attack's verdicts may change: part of every cell's key.
    version: ClassVar[int] = 1
    access: ClassVar[Access]
    norms: ClassVar[frozenset[str]]
    #: "fixed_eps" searches inside the ball and never leaves it; "minimal_distance" looks for the
    #: nearest adversarial.
    kind: ClassVar[Kind]
    targeted: ClassVar[bool] = True
    #: Batches of the model that the points of all rows in flight fill; in several, more rows share
    #: what a step itself costs.
    batches: ClassVar[int] = 1
    paper: ClassVar[str]

    def points(self, shape: tuple[int, ...]) -> int:
        """Count the points that a row asks for at once, at most.

        Args:
            shape: that of an image, (C, H, W).
        """
        return 1

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        """Tell whether all its queries say ``beside``: then more rows go side by side.

        Args:
            threat: what the search is for.
            shape: that of an image, (C, H, W).
        """
        return False

    def progress(self, state: S) -> Tensor | None:
        """Tell which share of its run each row has behind it.

        Returns:
            (B,) in [0, 1]; None when the attack cannot tell.
        """
        return None

    def check(self, threat: ThreatModel) -> None:
        """Refuse a threat for more reasons than its norm, its eps and ``targeted``.

        Raises:
            UsageError: the attack does not work under ``threat``.
        """

    @abstractmethod
    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> S:
        """Make the state of fresh rows, of images ``x`` (B, C, H, W) of the classes ``y`` (B,)."""

    @abstractmethod
    def ask(self, state: S) -> Query:
        """Say what to put to the model next, for every row (finished rows are ignored)."""

    @abstractmethod
    def tell(self, state: S, answer: Answer) -> S:
        """Take the answer into the state; set ``finished`` for rows that are done."""
