"""One self-contained HTML page.

It has tables that sort and filter, pictures, a gallery, and what lies behind each cell.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.render import cells
from robustbench_lite.leaderboard.render.charts import Chart, charts, drawn_by
from robustbench_lite.leaderboard.render.gallery import Picture
from robustbench_lite.leaderboard.standing.document import (
    Counted,
    Document,
    MeanQueries,
    MeasuredCell,
    Missing,
    OpenRange,
    Place,
    RankedRow,
    ThreatTable,
)
from robustbench_lite.leaderboard.standing.sheet import Sheet

MAX_BYTES = 1_250_000
_LOW = -1.0
"""What a missing value sorts as."""
_LAST = 10**6
"""What a row without a rank sorts as."""
Value = Counted | OpenRange | MeanQueries | Missing


class Section(NamedTuple):
    """A board on the page."""

    doc: Document
    charts: list[Chart]
    gallery: list[Picture]


class Heading(NamedTuple):
    """A column of a table."""

    name: str
    numeric: bool
    """It sorts as a number."""


class Shown(NamedTuple):
    """What a column shows of a row."""

    text: str
    sort: float | str
    """What it sorts by."""
    key: str | None = None
    """Of the cell whose details it opens."""
    why: str = ""
    """Why nothing was measured."""


def section(sheet: Sheet, doc: Document, gallery: list[Picture]) -> Section:
    """Gather everything that the page shows of one board."""
    return Section(doc, charts(sheet, doc), gallery)


def page(
    title: str, sections: list[Section], *, records: str = "results/{board}/cells/{record}"
) -> str:
    """Render the page.

    Args:
        title: of the whole.
        sections: one a board.
        records: where a cell's record lies, relative to the page; "" for nowhere.
    """
    from jinja2 import Environment

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(text=cells, headings=_headings, cells=_show_row)
    places = [(section.doc, place) for section in sections for place in section.doc.measured()]
    details = {place.cell.key: _details(doc, place, records) for doc, place in places}
    return environment.from_string(_template("page.html.j2")).render(
        title=title,
        sections=sections,
        style=_template("page.css"),
        script=_template("page.js"),
        drawn_by=drawn_by(),
        details=_embed(details),
    )


@cache
def _template(name: str) -> str:
    path = files("robustbench_lite") / "leaderboard" / "templates" / name
    return path.read_text(encoding="utf-8")


def _headings(threat: ThreatTable) -> list[Heading]:
    """Head the columns, and say which of them hold numbers."""
    return [
        Heading(name, name not in ("model", "defense", "broke last"))
        for name in cells.headings(threat)
    ]


def _show_row(row: RankedRow, threat: ThreatTable) -> list[Shown]:
    """Say what each column shows of a row."""
    standing = row.threats[threat.id]
    attacked = [standing.attacks[attack.id] for attack in threat.attacks]
    beside = [standing.worst, standing.certified, standing.open, standing.queries]
    values: list[Value] = [row.clean, *attacked, *beside]
    names = [
        Shown(cells.rank(row), row.rank.best if row.rank else _LAST),
        Shown(row.model, row.model),
        Shown(row.defense, row.defense),
    ]
    texts = cells.values(row, threat)[len(names) :]
    shown = [_show_value(text, value) for text, value in zip(texts, values, strict=False)]
    last = [Shown(text, text) for text in texts[len(values) :]]
    return [*names, *shown, *last]


def _show_value(text: str, value: Value) -> Shown:
    if isinstance(value, Missing):
        return Shown(text, _LOW, why=value.missing)
    return Shown(text, _order(value), key=value.key if isinstance(value, MeasuredCell) else None)


def _order(value: Counted | OpenRange | MeanQueries) -> float:
    """What a column sorts by."""
    if isinstance(value, OpenRange):
        return value.low
    if isinstance(value, MeanQueries):
        return value.forward + value.backward
    return value.accuracy


def _details(doc: Document, place: Place, records: str) -> dict[str, Any]:
    """What the dialog of a cell says, in order."""
    row, threat, attack, cell = place
    link = records.format(board=doc.board, record=cell.record) if records else ""
    return {
        "title": f"{row.defense} under {attack.heading}, {threat.title}",
        "record": link,
        "rows": _facts(row, cell),
    }


def _facts(row: RankedRow, cell: MeasuredCell) -> list[list[str]]:
    samples = cell.samples
    median = cell.median_distance
    right = f"{cell.right:,} of {cell.n:,}"
    versions = ", ".join(f"{name} {version}" for name, version in cell.versions.items())
    measured = f"{cell.created} in {cell.seconds:g} s on {cell.device}, by: {cell.made_by}"
    return [
        ["robust accuracy", f"{cells.share(cell)} % ({right})"],
        ["measure it again", cell.command],
        ["attack", words.plugin_in_full(cell.attack)],
        *(["defense", words.plugin_in_full(part)] for part in cell.defense.parts or [cell.defense]),
        ["model", f"{row.model}, weights {cell.weights_sha256[:16]}"],
        ["samples", f"{samples.name} {samples.split}, fingerprint {samples.fingerprint[:16]}"],
        ["queries a sample", words.queries_in_full(cell.forward_queries, cell.backward_queries)],
        *([] if median is None else [["median distance", f"{median:g}"]]),
        ["digest", cell.digest],
        ["measured", measured],
        ["versions", versions],
        *(["flag", flag] for flag in cell.flags),
    ]


def _embed(value: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")
