"""The attack protocol: an attack asks, the oracle answers.

An attack never holds the model. It is a frozen dataclass of hyper-parameters with three methods
over a batch of rows; the engine may put any rows side by side, at different steps, and takes each
out as soon as it is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple

from torch import Tensor

from robustbench_lite.model.passes import Passes, Points
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
    """Base of an attack's state: tensors with the row first. ``finished`` (B,) bool marks rows that
    ask nothing more.
    """

    finished: Tensor


if TYPE_CHECKING:  # typing has no default before Python 3.13, and only type checkers read it
    from typing_extensions import TypeVar

    S = TypeVar("S", bound=State, default=Any)
else:
    from typing import TypeVar

    S = TypeVar("S", bound=State)


class Neighbours(NamedTuple):
    """Says that a query's points are neighbours of one image a row: each differs from it in one
    pixel at most.

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
        """Ask for logits, and for the values of a loss: only the oracle knows the class that a row
        is to leave or to reach.
        """
        return cls(points, Access.SCORES, loss, valid=valid, beside=beside)

    @classmethod
    def gradient(
        cls, points: Tensor, loss: Loss, rows: Tensor | None = None, valid: Tensor | None = None
    ) -> Query:
        """Ask for the gradient of a per-sample loss; rows outside ``rows`` (B,) bool are only
        judged (a last iterate, say).
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
    """Shaped as the points: the gradient of the loss with respect to the input; 0 for rows that
    asked for none.
    """
    loss_of: Callable[[], Tensor] | None = None
    """For queries that name a loss: gives its values, (); most attacks never ask."""

    def need_logits(self) -> Tensor:
        """The logits, for an attack with SCORES access."""
        if self.logits is None:
            raise TypeError("The query asked for no scores.")
        return self.logits

    def need_gradient(self) -> Tensor:
        """The gradient, for an attack with GRADIENT access."""
        if self.gradient is None:
            raise TypeError("The query asked for no gradient.")
        return self.gradient

    def need_loss(self) -> Tensor:
        """The values of the loss, for a query that names one."""
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
        """The most points a row asks for at once, for images of ``shape`` (C, H, W)."""
        return 1

    def asks_neighbours(self, threat: ThreatModel, shape: tuple[int, ...]) -> bool:
        """Whether all its queries say ``beside``, for images of ``shape`` (C, H, W): then more rows
        go side by side.
        """
        return False

    def progress(self, state: S) -> Tensor | None:
        """Share of its run that each row has behind it, (B,) in [0, 1]; ``None`` when the attack
        cannot tell.
        """
        return None

    def check(self, threat: ThreatModel) -> None:
        """Raise ``UsageError`` where more than norm, eps and ``targeted`` keeps the attack from
        working under ``threat``.
        """

    @abstractmethod
    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> S:
        """The state of fresh rows: ``x`` (B, C, H, W), ``y`` (B,)."""

    @abstractmethod
    def ask(self, state: S) -> Query:
        """What to put to the model next, for every row (finished rows are ignored)."""

    @abstractmethod
    def tell(self, state: S, answer: Answer) -> S:
        """The state after the answer; sets ``finished`` for rows that are done."""


@dataclass(frozen=True)
class Fit:
    """Where a fit stands: everything that its next step needs."""

    step: int
    """Steps taken, of ``of``."""
    of: int
    result: Tensor
    """What it has come to so far."""
    tensors: Mapping[str, Tensor]
    """What the next step needs besides, such as the moments of Adam."""


@dataclass(frozen=True, kw_only=True)
class FittedAttack(Attack[S]):
    """Base of attacks that make something of training images before the search.

    Whoever runs the attack calls ``fit`` and puts the last ``result`` into a copy of it; ``init``
    to ``tell`` use that.
    """

    fitted: Tensor | None = field(
        default=None, repr=False, compare=False, metadata={"hyperparameter": False}
    )

    @property
    def fits(self) -> bool:
        """False for hyper-parameters with which there is nothing to fit."""
        return True

    @abstractmethod
    def fit(
        self,
        passes: Passes,
        images: Points,
        threat: ThreatModel,
        seed: int,
        start: Fit | None = None,
    ) -> Iterator[Fit]:
        """Fit, going on from ``start``; yields after every step.

        ``images`` are clean training images that the model classifies correctly, with their
        classes, the class to reach (-1: none) and their data-set indices. The result depends on
        them, the seed and the hyper-parameters alone.
        """

    def may_go_on_from(self, fit: Fit, shape: tuple[int, ...], threat: ThreatModel) -> bool:
        """Whether a fit that was read from a file has tensors of the right names and shapes; images
        are (C, H, W).
        """
        return fit.result.is_floating_point()


@dataclass(frozen=True, kw_only=True)
class UniversalAttack(FittedAttack[S]):
    """Base of attacks with one perturbation for all images, which is what they are fitted to."""

    draws: int = 1
    """Tries that an image gets with the fitted perturbation, one query each."""

    def picture(self, perturbation: Tensor) -> Tensor:
        """What to show of it: (C, H, W) in [0, 1], or one channel more, which says how opaque it
        is.
        """
        return perturbation
