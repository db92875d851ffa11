"""The pinned streams of the attacks: those of one generator share no number."""

from itertools import combinations

import pytest

from rbl_attacks import boundary_state, one_pixel_candidates, patch_placement, zoo_order
from robustbench_lite.search.rng import Pinned

GENERATORS = {
    "boundary": [boundary_state.WAVES, boundary_state.STARTS],
    "one_pixel": [
        one_pixel_candidates.POSITIONS,
        one_pixel_candidates.COLOURS,
        one_pixel_candidates.PARENTS,
    ],
    "patch": [patch_placement.PLACEMENTS, patch_placement.COLOURS],
    "the fit of patch": [patch_placement.PLACEMENTS, patch_placement.ORDERS],
    "zoo": [zoo_order.ORDERS],
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
