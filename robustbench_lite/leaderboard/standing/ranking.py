"""Which differences between rows are more than luck.

Exact McNemar tests, Holm's correction, ranges of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RankRange(NamedTuple):
    """The places that a row may hold, counted from 1."""

    best: int
    worst: int

    def __str__(self) -> str:
        return f"{self.best}" if self.best == self.worst else f"{self.best}-{self.worst}"


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Compute the exact two-sided p-value that two rows are equally robust.

    The rows are verdicts (N,) on the same samples. Only samples on which they differ say anything
    (McNemar 1947); under the null each falls to either side with equal chance.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    from scipy.special import bdtr

    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses fall at a family-wise error rate of ``alpha`` (Holm 1979).

    >>> holm([0.01, 0.04, 0.03], 0.05)
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for step, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[number] > alpha / (len(p_values) - step):
            break
        rejected[number] = True
    return rejected


def rank_ranges(robust: Sequence[NDArray[np.bool_]], alpha: float) -> list[RankRange]:
    """Rank rows with verdicts ``robust`` (N,) each.

    A row is below all that are significantly better, above all worse ones.
    """
    pairs = list(combinations(range(len(robust)), 2))
    differs = holm([mcnemar(robust[a], robust[b]) for a, b in pairs], alpha)
    better = [0] * len(robust)
    worse = [0] * len(robust)
    for (a, b), significant in zip(pairs, differs, strict=True):
        if significant:
            winner, loser = (a, b) if robust[a].sum() > robust[b].sum() else (b, a)
            better[loser] += 1
            worse[winner] += 1
    return [RankRange(1 + up, len(robust) - down) for up, down in zip(better, worse, strict=True)]
