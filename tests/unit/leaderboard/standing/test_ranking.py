"""Ranks: the tests behind them, checked against counting by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.leaderboard.standing.ranking import holm, mcnemar, rank_ranges


def counted(only_first: int, only_second: int) -> float:
    """The two-sided p-value by going through every way that the differing samples could have
    fallen.
    """
    n = only_first + only_second
    outcomes = [sum(falls) for falls in product((0, 1), repeat=n)]
    chance = [outcomes.count(k) for k in range(n + 1)]
    return sum(c for c in chance if c <= chance[only_first]) / 2**n  # type: ignore[no-any-return]


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 0), (6, 1), (4, 4), (2, 9)])
def test_mcnemar_is_the_exact_count(only_first: int, only_second: int) -> None:
    both = np.ones(5, dtype=bool)
    first = np.concatenate(
        [both, np.ones(only_first, dtype=bool), np.zeros(only_second, dtype=bool)]
    )
    second = np.concatenate(
        [both, np.zeros(only_first, dtype=bool), np.ones(only_second, dtype=bool)]
    )
    assert mcnemar(first, second) == pytest.approx(counted(only_first, only_second))


def test_rows_that_never_differ_are_not_told_apart() -> None:
    verdicts = np.array([True, False, True])
    assert mcnemar(verdicts, verdicts) == 1.0


def test_holm_lowers_the_bar_step_by_step_and_stops_at_the_first_that_stands() -> None:
    assert holm([0.012, 0.03, 0.02, 0.9], 0.05) == [True, False, False, False]
    assert holm([0.012, 0.024, 0.016, 0.9], 0.05) == [True, True, True, False]
    assert holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.1]))
def test_holm_rejects_at_least_what_bonferroni_rejects_and_at_most_what_is_below_alpha(
    p: list[float], alpha: float
) -> None:
    for value, rejected in zip(p, holm(p, alpha), strict=True):
        assert rejected or value > alpha / len(p)
        assert not rejected or value <= alpha


def test_rows_that_do_not_differ_by_more_than_luck_share_their_places() -> None:
    rng = np.random.default_rng(0)
    strong = rng.random(1000) < 0.6
    equal = strong.copy()
    equal[:3] = ~equal[:3]
    weak = strong & (rng.random(1000) < 0.5)
    assert [str(r) for r in rank_ranges([weak, strong, equal], 0.05)] == ["3", "1-2", "1-2"]


def test_the_order_of_rows_changes_no_rank() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.random(200) < share for share in (0.2, 0.5, 0.55, 0.9)]
    there, back = rank_ranges(rows, 0.05), rank_ranges(rows[::-1], 0.05)
    assert there == back[::-1]
