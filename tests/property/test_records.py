"""Whatever the outcomes are, the text form gives them back, and nothing else reads as them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.errors import RecordError
from robustbench_lite.records.encoding import (
    pack_bits,
    pack_numbers,
    unpack_bits,
    unpack_floats,
    unpack_ints,
)
from robustbench_lite.records.identity import ranges
from robustbench_lite.records.statistics import wilson


@given(st.lists(st.booleans(), max_size=70))
def test_bitsets_round_trip(bits: list[bool]) -> None:
    assert unpack_bits(pack_bits(np.array(bits, dtype=np.bool_)), len(bits)).tolist() == bits


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 40))
def test_a_bitset_of_another_length_is_refused(bits: list[bool], more: int) -> None:
    text = pack_bits(np.array(bits, dtype=np.bool_))
    if (len(bits) + more + 7) // 8 != (len(bits) + 7) // 8:
        with pytest.raises(RecordError):
            unpack_bits(text, len(bits) + more)


@given(st.lists(st.booleans(), max_size=70))
def test_a_bit_beyond_the_last_sample_is_refused(bits: list[bool]) -> None:
    with pytest.raises(RecordError, match=r"beyond its last sample|bytes instead"):
        unpack_bits(pack_bits(np.array([*bits, True])), len(bits))


@given(st.lists(st.floats(width=32), max_size=30))
def test_floats_round_trip_bit_by_bit(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(unpack_floats(pack_numbers(array), len(values)), array)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
def test_integers_round_trip(values: list[int]) -> None:
    assert (
        unpack_ints(pack_numbers(np.array(values, dtype=np.int32)), len(values)).tolist() == values
    )


@given(st.lists(st.integers(0, 1000), unique=True, max_size=50))
def test_ranges_give_back_the_ids(ids: list[int]) -> None:
    parts = [list(range(low, high)) for low, high in ranges(np.array(ids, dtype=np.int64))]
    assert [i for part in parts for i in part] == ids


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_fraction(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
