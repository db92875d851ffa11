"""Pictures: the same bytes each time, ids of their own, the page's own text colour."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

from robustbench_lite.leaderboard.render.charts import charts
from robustbench_lite.leaderboard.render.looks import look_of
from robustbench_lite.leaderboard.render.page import page, section
from robustbench_lite.leaderboard.standing.sheet import Sheet
from robustbench_lite.leaderboard.standing.summary import document
from tests.unit.leaderboard.conftest import cell

Make = Callable[..., Sheet]


def example(sheet: Make) -> Sheet:
    cells = [
        cell(d, "pgd", "1111", robust, eps=eps, queries=100)
        for d in ("a", "b")
        for eps, robust in ((0.1, "1110"), (0.2, "1000"))
    ]
    return sheet(*cells, cell("a", "fgsm", "1111", "1111"))


def test_the_bytes_of_a_picture_follow_from_the_verdicts(sheet: Make) -> None:
    one, other = example(sheet), example(sheet)
    first, second = charts(one, document(one)), charts(other, document(other))
    assert [chart.svg for chart in first] == [chart.svg for chart in second]
    assert [chart.title for chart in first] == [
        "Attack x defense",
        "Clean against robust",
        "Accuracy against eps",
        "Success against queries",
    ]


def test_a_picture_has_a_title_of_its_own_and_ids_that_lead_somewhere(sheet: Make) -> None:
    one = example(sheet)
    everything: list[str] = []
    for chart in charts(one, document(one)):
        root = ElementTree.fromstring(chart.svg)
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', chart.svg))
        assert wanted <= ids
        assert root.get("aria-labelledby") in ids
        assert "currentColor" in chart.svg
        assert "matplotlib" not in chart.svg
        everything += [name for name in ids if name]
    assert len(everything) == len(set(everything))


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_what_it_shows(sheet: Make) -> None:
    one = sheet(cell("<script>alert(1)</script>", "pgd", "11", "10"))
    text = page("A & B", [section(one, document(one), [])])
    assert "<script>alert" not in text
    assert "A &amp; B" in text
    addresses = set(re.findall(r'(?:href|src)="(?!#|data:|results/)([^"]+)"', text))
    assert addresses == set()
    assert "url(http" not in text


def test_no_two_rows_look_the_same() -> None:
    looks = [look_of(place) for place in range(32)]
    assert len({(look.colour, look.marker) for look in looks}) == 32  # points
    assert len({(look.colour, look.dash) for look in looks}) == 32  # lines without markers
