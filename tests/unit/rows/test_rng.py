from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from robustbench_lite.rows.rng import DOWN, UP, Pinned, SampleRng, philox

INDEX = torch.tensor([3, 0, 999, 41])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_words_of_its_authors(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]
) -> None:
    a, b, c, d = counter
    assert (
        tuple(
            int(word)
            for word in philox(
                (torch.tensor(a), torch.tensor(b), torch.tensor(c), torch.tensor(d)), key
            )
        )
        == words
    )


def test_philox_leaves_its_counter_as_it_was() -> None:
    counter = torch.full((5,), 1), torch.full((5,), 2), torch.full((5,), 3), torch.full((5,), 4)
    philox(counter, (5, 6))
    assert [int(c[0]) for c in counter] == [1, 2, 3, 4]


@pytest.mark.parametrize(("draw", "distribution"), [("uniform", "uniform"), ("normal", "norm")])
def test_numbers_follow_their_distribution_within_a_row_and_across_rows(
    draw: str, distribution: str
) -> None:
    rng = SampleRng.create(0, "test", torch.arange(20_000))
    across = getattr(rng, draw)(0, (2,))
    within = getattr(rng.select(torch.tensor([7])), draw)(1, (20_000,))
    for numbers in (across[:, 0], across[:, 1], within[0]):
        assert stats.kstest(numbers.double().numpy(), distribution).pvalue > 1e-3


def test_normal_numbers_of_a_row_are_not_correlated() -> None:
    numbers = SampleRng.create(1, "test", torch.arange(20_000)).normal(0, (4,))
    assert (torch.corrcoef(numbers.T) - torch.eye(4)).abs().max() < 0.03


def test_uniform_numbers_stay_below_one() -> None:
    numbers = SampleRng.create(0, "test", torch.arange(100)).uniform(0, (10_000,))
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1


@pytest.mark.parametrize("count", [1, 5, 784])
def test_a_row_draws_the_same_numbers_in_any_company(count: int) -> None:
    together = SampleRng.create(0, "test", INDEX).normal(9, (count,))
    for row, index in enumerate(INDEX):
        assert torch.equal(
            SampleRng.create(0, "test", index[None]).normal(9, (count,))[0], together[row]
        )
    order = torch.tensor([2, 3, 1, 0])
    assert torch.equal(
        SampleRng.create(0, "test", INDEX[order]).normal(9, (count,)), together[order]
    )


def test_a_draw_number_for_each_row_reads_each_row_at_its_own_place() -> None:
    rng, draws = SampleRng.create(0, "test", INDEX), torch.tensor([5, 0, 2, 5])
    mixed = rng.uniform(draws, (6,))
    for row, draw in enumerate(draws.tolist()):
        assert torch.equal(mixed[row], rng.uniform(draw, (6,))[row])


@pytest.mark.parametrize(
    "other",
    [
        lambda: SampleRng.create(1, "test", INDEX).uniform(0, (50,)),
        lambda: SampleRng.create(0, "else", INDEX).uniform(0, (50,)),
        lambda: SampleRng.create(0, "test", INDEX + 1).uniform(0, (50,)),
        lambda: SampleRng.create(0, "test", INDEX, torch.ones_like(INDEX)).uniform(0, (50,)),
        lambda: SampleRng.create(0, "test", INDEX).uniform(1, (50,)),
        lambda: SampleRng.create(0, "test", INDEX).uniform(-1, (50,)),
    ],
    ids=["seed", "purpose", "index", "restart", "draw", "negative draw"],
)
def test_each_part_of_the_key_changes_every_row(other: Callable[[], Tensor]) -> None:
    assert ((SampleRng.create(0, "test", INDEX).uniform(0, (50,)) == other()).sum(1) <= 1).all()


STREAMS: dict[str, Callable[[SampleRng], SampleRng]] = {
    "plain": lambda rng: rng,
    "one name": lambda rng: rng.stream("parents"),
    "another": lambda rng: rng.stream("colours"),
    "a name that reads like another key": lambda rng: rng.stream("nested"),
    "nested": lambda rng: rng.nested(),
    "mirrored": lambda rng: rng.mirrored(),
    "mirrored under a name": lambda rng: rng.stream("parents").mirrored(),
    "a stream of a stream": lambda rng: rng.stream("parents").stream("colours"),
}


def test_streams_of_distinct_names_have_distinct_words_at_every_draw() -> None:
    rng = SampleRng.create(0, "test", INDEX)
    words = [make(rng).bits(draw, 8) for make in STREAMS.values() for draw in range(3)]
    assert len(set(torch.cat(words).flatten().tolist())) == len(words) * len(INDEX) * 8


def test_a_stream_is_the_same_whenever_it_is_asked_for() -> None:
    rng = SampleRng.create(0, "test", INDEX)
    assert torch.equal(rng.stream("parents").bits(3, 9), rng.stream("parents").bits(3, 9))


@pytest.mark.parametrize(
    ("numbers", "of"),
    [(UP, lambda n: n), (DOWN, lambda n: -1 - n), (DOWN[1:2], lambda n: -2)],
    ids=["up", "down", "single"],
)
def test_a_pinned_stream_has_the_numbers_that_it_is_pinned_to(
    numbers: range, of: Callable[[int], int]
) -> None:
    rng = SampleRng.create(0, "test", INDEX)
    stream = rng.stream(Pinned("any", numbers))
    for draw in range(min(len(numbers), 3)):
        wanted = rng.bits(of(draw), 9)
        assert torch.equal(stream.bits(draw, 9), wanted)
        assert torch.equal(stream.bits(torch.full_like(INDEX, draw), 9), wanted)
        assert torch.equal(stream.select(torch.tensor([2])).bits(draw, 9), wanted[2:3])


def test_a_pinned_stream_has_no_draws_beyond_its_numbers_and_no_streams() -> None:
    stream = SampleRng.create(0, "test", INDEX).stream(Pinned("colours", DOWN[1:2]))
    with pytest.raises(IndexError):
        stream.uniform(1, (2,))
    with pytest.raises(TypeError, match="no streams of its own"):
        stream.stream("parents")
    with pytest.raises(TypeError, match="no streams of its own"):
        stream.mirrored()


def test_no_global_generator_is_moved() -> None:
    before = torch.get_rng_state()
    SampleRng.create(0, "test", INDEX).normal(0, (10,))
    assert torch.equal(torch.get_rng_state(), before)
