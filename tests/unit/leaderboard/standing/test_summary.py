"""What a table says follows from the verdicts, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from robustbench_lite.leaderboard.render import cells
from robustbench_lite.leaderboard.render.tables import FORMATS
from robustbench_lite.leaderboard.standing.document import (
    Document,
    Missing,
    OpenRange,
    RankedRow,
    Standing,
    WorstShare,
)
from robustbench_lite.leaderboard.standing.sheet import Sheet
from robustbench_lite.leaderboard.standing.summary import document
from tests.unit.leaderboard.conftest import cell

Make = Callable[..., Sheet]
LINF = "linf/0.1/untargeted"
K = TypeVar("K")


def known(value: K | Missing) -> K:
    """``value``, which is not missing."""
    assert not isinstance(value, Missing)
    return value


def row_of(doc: Document, defense: str) -> RankedRow:
    return next(row for row in doc.rows if row.defense == defense)


def standing_of(doc: Document, defense: str) -> Standing:
    return row_of(doc, defense).threats[LINF]


def test_the_worst_case_is_taken_over_attacks_for_each_sample(sheet: Make) -> None:
    doc = document(sheet(cell("d", "one", "1111", "1101"), cell("d", "two", "1111", "1011")))
    part = standing_of(doc, "d")
    assert [known(cell).accuracy for cell in part.attacks.values()] == [0.75, 0.75]
    assert (known(part.worst).right, known(part.worst).n) == (2, 4)


def test_no_worst_case_mixes_sets_of_samples(sheet: Make) -> None:
    doc = document(sheet(cell("d", "one", "1111", "1111"), cell("d", "two", "11", "10")))
    worst = known(standing_of(doc, "d").worst)
    assert (worst.right, worst.n) == (4, 4)
    assert isinstance(worst, WorstShare)
    assert worst.over == ["one"]


def test_what_is_missing_is_a_dash_with_a_reason_and_has_no_rank(sheet: Make) -> None:
    doc = document(
        sheet(
            cell("d", "one", "11", "10"), cell("e", "one", "11", "11"), cell("e", "two", "11", "00")
        )
    )
    row = row_of(doc, "d")
    assert row.rank is None
    assert row.threats[LINF].worst == Missing(missing="two: not measured")
    table = doc.threats[0]
    line = dict(zip(cells.headings(table), cells.values(row, table), strict=True))
    assert {
        line[name] for name in ("rank", "two", "worst case", "certified", "open", "queries")
    } == {"-"}
    assert any("two: not measured" in reason for reason in cells.missing(doc))
    assert "| - |" in FORMATS["md"](doc)
    assert "not measured" in FORMATS["csv"](doc)
    assert doc.rows[-1] is row
    assert known(standing_of(doc, "e").worst).accuracy == 0.0


def test_rows_on_other_samples_are_not_ranked_against_each_other(sheet: Make) -> None:
    same = document(
        sheet(cell("d", "one", "1" * 12, "1" * 12), cell("e", "one", "1" * 12, "0" * 12))
    )
    assert [row.rank for row in same.rows] == [(1, 1), (2, 2)]
    other = document(
        sheet(cell("d", "one", "1" * 12, "1" * 12), cell("e", "one", "1" * 12, "0" * 12, first=1))
    )
    assert [row.rank for row in other.rows] == [None, None]


def test_clean_accuracy_is_that_of_the_most_samples_that_were_measured(sheet: Make) -> None:
    doc = document(
        sheet(
            cell("d", "one", "1100", "1000"),
            cell("d", "two", "11", "10"),
            cell("d", "three", "110", "100"),
        )
    )
    assert (known(doc.rows[0].clean).right, known(doc.rows[0].clean).n) == (2, 4)


def test_certified_and_worst_case_enclose_the_truth(sheet: Make) -> None:
    doc = document(
        sheet(
            cell("d", "one", "11110", "11100", certified="10000"),
            cell("d", "two", "11110", "11010", certified="01000"),
        )
    )
    part = standing_of(doc, "d")
    assert known(part.certified).right == 2
    assert known(part.worst).right == 2
    assert part.open == OpenRange(n=5, samples=0, low=0.4, high=0.4)


def test_the_open_interval_counts_samples_that_are_neither_proved_nor_broken(sheet: Make) -> None:
    part = standing_of(document(sheet(cell("d", "one", "1111", "1110", certified="1000"))), "d")
    assert part.open == OpenRange(n=4, samples=2, low=0.25, high=0.75)
    assert cells.between(part.open) == "25.0 to 75.0"


def test_the_open_interval_is_of_the_samples_that_were_to_be_certified(sheet: Make) -> None:
    cells = cell("d", "one", "1111", "0010"), cell("d", "two", "11", "11", certified="10", first=2)
    part = standing_of(document(sheet(*cells)), "d")
    assert part.open == OpenRange(n=2, samples=0, low=0.5, high=0.5)


def test_rows_stand_in_the_order_of_their_worst_case_whatever_the_order_of_files(
    sheet: Make,
) -> None:
    cells = [
        cell("weak", "one", "1111", "0001"),
        cell("best", "one", "1111", "1111"),
        cell("mid", "one", "1111", "0111"),
    ]
    one, other = document(sheet(*cells)), document(sheet(*reversed(cells)))
    assert [row.defense for row in one.rows] == ["best", "mid", "weak"]
    assert one == other


def test_every_format_says_n_and_units(sheet: Make) -> None:
    doc = document(sheet(cell("d_1", "one", "1111", "1101")))
    for name, render in FORMATS.items():
        text = render(doc)
        assert text == render(doc)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        if name in ("md", "tex"):
            assert "n = 4" in text
            assert "95" in text
    assert r"d\_1" in FORMATS["tex"](doc)
    assert "in %" in cells.caption(doc, doc.threats[0])


def test_queries_are_of_the_attacks_that_met_all_samples(sheet: Make) -> None:
    doc = document(sheet(cell("d", "one", "1111", "1111"), cell("d", "two", "11", "10")))
    whole = doc.threats[0].whole
    assert [column.heading for column in whole] == ["one"]
    alone = document(sheet(cell("d", "one", "1111", "1111")))
    assert standing_of(doc, "d").queries == standing_of(alone, "d").queries
