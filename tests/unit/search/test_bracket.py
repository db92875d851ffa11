"""The search for a constant: tenfold until the first success, half way from there on, each row by
itself.
"""

import torch

from robustbench_lite.search.bracket import Bracket

WANTED = torch.tensor([0.5, 37.0, 1e-4, 1e6])
"""The smallest constants that succeed; the first that is tried is 1."""


def search(tries: int) -> tuple[torch.Tensor, Bracket]:
    """The constants tried, (tries, B), and what is known in the end."""
    tried = torch.ones(4)
    bracket, seen = Bracket.fresh(tried), []
    for _ in range(tries):
        seen.append(tried)
        success = tried >= WANTED
        bracket = bracket.narrow(tried, failed=~success, succeeded=success)
        tried = bracket.next_after(tried)
    return torch.stack(seen), bracket


def test_nothing_is_known_at_first() -> None:
    bracket = Bracket.fresh(torch.ones(3))
    assert bracket.low.tolist() == [0, 0, 0]
    assert bracket.high.isinf().all()


def test_a_constant_grows_tenfold_until_it_succeeds_and_is_then_bisected() -> None:
    seen, _ = search(5)
    assert seen[:, 0].tolist() == [1, 0.5, 0.25, 0.375, 0.4375]
    assert seen[:, 1].tolist() == [1, 10, 100, 55, 32.5]
    assert seen[:, 3].tolist() == [1, 10, 100, 1000, 10000]


def test_the_bracket_closes_in_on_the_smallest_constant_that_succeeds() -> None:
    _, bracket = search(40)
    assert (bracket.low < WANTED).all()
    assert (bracket.high >= WANTED).all()
    torch.testing.assert_close(bracket.high, WANTED)


def test_rows_that_are_not_over_learn_nothing() -> None:
    tried, none = torch.ones(2), torch.tensor([False, False])
    before = Bracket.fresh(tried)
    after = before.narrow(tried, failed=none, succeeded=none)
    assert torch.equal(after.low, before.low)
    assert torch.equal(after.high, before.high)
