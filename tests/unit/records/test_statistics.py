"""Intervals and medians."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from robustbench_lite.records.statistics import wilson


@pytest.mark.parametrize("n", [1, 10, 200, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_wilson_interval_is_that_of_scipy(n: int, confidence: float) -> None:
    for successes in {0, 1, n // 3, n - 1, n}:
        expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert wilson(successes, n, confidence) == pytest.approx(
            (expected.low, expected.high), rel=1e-12, abs=1e-15
        )


def test_the_wilson_interval_is_the_published_one() -> None:
    low, high = wilson(0, 10)
    assert (low, high) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
