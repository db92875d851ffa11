"""Fractions with their uncertainty."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval of a fraction."""

    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval (Wilson 1927) of ``successes`` out of ``n``; [0, 1] when n is 0.

    >>> low, high = wilson(50, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    result = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(result.low), float(result.high))
