"""What a network answered on probe images.

Where weights and layers are the same and the code is not, this tells networks apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import RecordError
from robustbench_lite.records.encoding import pack_numbers, unpack_floats
from robustbench_lite.records.files import REPLACED
from robustbench_lite.records.schema import Strict

TOLERANCE = 3e-5
"""Largest difference of two answers, relative to the largest of them (or to 1), that is rounding.
Kernels of other machines and batch sizes differ by about 1e-6; a false alarm costs the time of a
measurement, a false match would cost the truth."""


class Behaviour(Strict):
    """The answers to P probe images, K numbers each.

    See :mod:`robustbench_lite.evaluation.probes` for the images.
    """

    probes: int
    """Version of the probe images."""
    fixed: int
    """The first so many images are the same for all data; the others are the first images of the
    data.
    """
    shape: tuple[int, int]
    """P, K."""
    answers: str
    """float32, row by row."""

    @classmethod
    def of(cls, answers: NDArray[np.float32], *, fixed: int, probes: int) -> Behaviour:
        """From ``answers`` (P, K)."""
        rows, columns = answers.shape
        return cls(
            probes=probes,
            fixed=fixed,
            shape=(rows, columns),
            answers=pack_numbers(answers.astype(np.float32).ravel()),
        )

    def array(self) -> NDArray[np.float32]:
        """The answers, (P, K); a RecordError if they are not what the shape says."""
        rows, columns = self.shape
        if rows < 1 or columns < 1 or not 0 <= self.fixed <= rows:
            raise RecordError(
                f"The answers of the network have the shape {self.shape}, {self.fixed} of them "
                "fixed."
            )
        return unpack_floats(self.answers, rows * columns).reshape(rows, columns)

    def agrees(self, other: Behaviour, *, images: bool = True) -> bool:
        """Whether both can be answers of one network.

        Without ``images``, on the fixed images alone.

        An image that both answer with NaN or infinity says nothing; where that is every image,
        nothing agrees.
        """
        mine = self.array()
        theirs = other.array()
        if (self.probes, self.fixed, mine.shape[1]) != (other.probes, other.fixed, theirs.shape[1]):
            return False
        if not images:
            mine = mine[: self.fixed]
            theirs = theirs[: self.fixed]
        if mine.shape != theirs.shape:
            return False
        finite = np.isfinite(mine).all(1)
        if not finite.any() or not np.array_equal(finite, np.isfinite(theirs).all(1)):
            return False
        a = mine[finite].astype(np.float64)
        b = theirs[finite].astype(np.float64)
        return bool(np.abs(a - b).max() <= TOLERANCE * max(1.0, np.abs(a).max(), np.abs(b).max()))


_ANOTHER = "a network with the same weights and structure, but other answers"
ANEW = f"measured anew: what an unfinished run has left here is of {_ANOTHER}"


def objection(kept: Behaviour | None, here: Behaviour) -> str | None:
    """Why what was kept must not stand for the network that answers ``here``; None where it may."""
    if kept is None:
        return "what was recorded here before does not say how its network answers"
    return None if kept.agrees(here) else f"{_ANOTHER}, was recorded here before"


def anew(reason: str | None, folder: Path | None) -> str | None:
    """Note why something is measured although there was a record in ``folder``.

    None without a reason.
    """
    return (
        None
        if reason is None or folder is None
        else f"measured anew: {reason} (kept in {folder / REPLACED})"
    )
