"""Fractions with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple


class WilsonInterval(NamedTuple):
    """A confidence interval of a fraction."""

    low: float
    high: float


@cache
def wilson(successes: int, n: int, confidence: float = 0.95) -> WilsonInterval:
    """The Wilson score interval (Wilson 1927) of ``successes`` out of ``n``; [0, 1] when n is 0.

    >>> low, high = wilson(50, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if n == 0:
        return WilsonInterval(0.0, 1.0)
    # scipy.stats has the interval itself, but to import that takes longer than to check all records
    # of a board.
    from scipy.special import ndtri

    share = successes / n
    z = float(ndtri((1 + confidence) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return WilsonInterval(
        centre - half if successes else 0.0, centre + half if successes < n else 1.0
    )


def agree(stated: object, derived: object) -> bool:
    """Whether figures are equal but for the last bits of floats.

    Those may differ between releases of scipy.

    >>> agree({"interval": (0.1 + 0.2, 1)}, {"interval": [0.3, 1]}), agree([0.3], [0.300001])
    (True, False)
    """
    if isinstance(stated, float) and isinstance(derived, float):
        return math.isclose(stated, derived, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(stated, Mapping) and isinstance(derived, Mapping):
        return stated.keys() == derived.keys() and all(
            agree(stated[name], derived[name]) for name in stated
        )
    if (
        isinstance(stated, Sequence)
        and isinstance(derived, Sequence)
        and not isinstance(stated, str)
    ):
        return len(stated) == len(derived) and all(map(agree, stated, derived))
    return stated == derived
