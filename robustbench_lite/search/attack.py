"""The attack protocol: an attack asks, the oracle answers.

An attack never holds the model. It is a frozen dataclass of hyper-parameters with three methods
over a batch of rows; the engine may put any rows side by side, at different steps, and takes each
out as soon as it is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal

from torch import Tensor

from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.rows.rows import Rows
from robustbench_lite.search.query import Access, Answer, Query
from robustbench_lite.threat import ThreatModel

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
    #: "fixed_eps" searches inside the ball and never leaves it, but in queries that say
    #: ``explores``; "minimal_distance" looks for the nearest adversarial.
    kind: ClassVar[Kind]
    targeted: ClassVar[bool] = True
    #: Batches of the model that the points of all rows in flight fill; in several, more rows share
    #: what a step itself costs.
    batches: ClassVar[int] = 1
    #: Whether ``init_at`` takes a point to begin at.
    starts_anywhere: ClassVar[bool] = False
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

    def init_at(
        self, start: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng
    ) -> S:
        """Make the state of rows that begin at the points ``start`` (B, C, H, W) of the ball.

        Raises:
            TypeError: the attack chooses its own (``starts_anywhere``).
        """
        raise TypeError(f"{self.name} chooses its own start.")

    @abstractmethod
    def ask(self, state: S) -> Query:
        """Say what to put to the model next, for every row (finished rows are ignored)."""

    @abstractmethod
    def tell(self, state: S, answer: Answer) -> S:
        """Take the answer into the state; set ``finished`` for rows that are done."""
