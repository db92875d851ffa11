"""Looks at values: what they show where they are free, and that nothing is known where they are
not.
"""

import pytest
import torch

from robustbench_lite.rows.looks import free_to_look, surely_all, surely_none

CLAIMS = [
    ([True, True], True, False),
    ([True, False], False, False),
    ([False, False], False, True),
    ([], True, True),
]


@pytest.mark.parametrize(("claims", "all_of_them", "none_of_them"), CLAIMS, ids=str)
def test_a_free_look_shows_what_the_claims_are(
    claims: list[bool], all_of_them: bool, none_of_them: bool
) -> None:
    there = torch.tensor(claims, dtype=torch.bool)
    assert free_to_look(there)
    assert surely_all(there) == all_of_them
    assert surely_none(there) == none_of_them


def test_where_a_look_would_have_to_wait_nothing_is_sure() -> None:
    far = torch.ones(
        3, dtype=torch.bool, device="meta"
    )  # holds no values at all: a look would raise
    assert not free_to_look(far)
    assert not surely_all(far)
    assert not surely_none(far)
