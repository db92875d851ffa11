"""The pinned streams of the attacks: those of one generator share no number."""

from itertools import combinations

import pytest

from rbl_attacks.boundary import state
from rbl_attacks.one_pixel import candidates
from rbl_attacks.patch import placement
from rbl_attacks.zoo import order
from robustbench_lite.rows.rng import Pinned

GENERATORS = {
    "boundary": [state.WAVES, state.STARTS],
    "one_pixel": [
        candidates.POSITIONS,
        candidates.COLOURS,
        candidates.PARENTS,
    ],
    "patch": [placement.PLACEMENTS, placement.COLOURS],
    "the fit of patch": [placement.PLACEMENTS, placement.ORDERS],
    "zoo": [order.ORDERS],
}


def bounds(stream: Pinned) -> tuple[int, int]:
    ends = stream.numbers[0], stream.numbers[-1]
    return min(ends), max(ends)


@pytest.mark.parametrize("name", GENERATORS)
def test_pinned_streams_of_a_generator_have_no_number_in_common(name: str) -> None:
    for one, other in combinations(GENERATORS[name], 2):
        (low, high), (from_, to) = bounds(one), bounds(other)
        assert high < from_ or to < low
        assert one.name != other.name
