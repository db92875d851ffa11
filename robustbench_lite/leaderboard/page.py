"""One self-contained HTML page: tables that sort and filter, pictures, a gallery, and what lies behind each cell."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from robustbench_lite.leaderboard import tables
from robustbench_lite.leaderboard.charts import Chart, charts, drawn_by
from robustbench_lite.leaderboard.gallery import Picture
from robustbench_lite.leaderboard.sheet import Sheet
from robustbench_lite.leaderboard.standing import Document

MAX_BYTES = 1_000_000
_LOW = -1.0
"""What a missing value sorts as."""


class Section(NamedTuple):
    """A board on the page."""

    doc: Document
    charts: list[Chart]
    gallery: list[Picture]


def section(sheet: Sheet, doc: Document, gallery: list[Picture]) -> Section:
    """Everything that the page shows of one board."""
    return Section(doc, charts(sheet, doc), gallery)


def page(title: str, sections: list[Section], *, records: str = "results/{board}/cells/{record}") -> str:
    """The page; ``records`` says where a cell's record lies, relative to it ("": nowhere)."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.globals.update(text=tables, headings=_headings, cells=_cells)
    return environment.from_string(_template("page.html.j2")).render(
        title=title, sections=sections, style=_template("page.css"), script=_template("page.js"), drawn_by=drawn_by(),
        details=_embedded({
            found[3]["key"]: _details(s.doc, *found, records) for s in sections for found in tables.measured(s.doc)
        }),
    )  # fmt: skip


@cache
def _template(name: str) -> str:
    return (files("robustbench_lite") / "leaderboard" / "templates" / name).read_text(encoding="utf-8")


def _headings(threat: Document) -> list[tuple[str, bool]]:
    """Name of each column, and whether it sorts as a number."""
    return [(name, name not in ("model", "defense")) for name in tables.headings(threat)]


def _cells(row: Document, threat: Document) -> list[dict[str, Any]]:
    """What each column shows of a row, with the value that it sorts by, and the key of the cell that it opens."""
    part = row["threats"][threat["id"]]
    sorts = [
        row["rank"][0] if row["rank"] else 10**6, row["model"], row["defense"], _accuracy(row["clean"]),
        *(_accuracy(part["attacks"][a["id"]]) for a in threat["attacks"]),
        _accuracy(part["worst"]), _accuracy(part["certified"]), part["open"].get("low", _LOW),
        part["queries"].get("forward", _LOW) + part["queries"].get("backward", 0),
    ]  # fmt: skip
    cells = [part["attacks"][a["id"]] for a in threat["attacks"]]
    values = [None, None, None, row["clean"], *cells, part["worst"], part["certified"], part["open"], part["queries"]]
    shown = zip(tables.values(row, threat), sorts, values, strict=True)
    return [
        {"text": text, "sort": sort, "key": (value or {}).get("key"), "why": (value or {}).get("missing", "")}
        for text, sort, value in shown
    ]


def _accuracy(cell: Document) -> float:
    return float(cell.get("accuracy", _LOW))


def _details(doc: Document, row: Document, threat: Document, attack: Document, cell: Document, records: str) -> dict[str, Any]:
    """What the dialog of a cell says, in order."""
    samples = cell["samples"]
    link = records.format(board=doc["board"], record=cell["record"]) if records else ""
    return {
        "title": f"{row['defense']} under {attack['heading']}, {threat['title']}",
        "record": link,
        "rows": [
            ["robust accuracy", f"{tables.share(cell)} % ({cell['right']:,} of {cell['n']:,})"],
            ["measure it again", cell["command"]],
            ["attack", _plugin(cell["attack"])],
            *(["defense", _plugin(part)] for part in cell["defense"].get("parts") or [cell["defense"]]),
            ["model", f"{row['model']}, weights {cell['weights_sha256'][:16]}"],
            ["samples", f"{samples['name']} {samples['split']}, fingerprint {samples['fingerprint'][:16]}"],
            ["queries a sample", f"{cell['forward_queries']:,.1f} forward, {cell['backward_queries']:,.1f} backward"],
            *([["median distance", f"{cell['median_distance']:g}"]] if cell["median_distance"] is not None else []),
            ["digest", cell["digest"]],
            ["measured", f"{cell['created']} in {cell['seconds']:g} s on {cell['device']}, by: {cell['made_by']}"],
            ["versions", ", ".join(f"{name} {version}" for name, version in cell["versions"].items())],
            *(["flag", flag] for flag in cell["flags"]),
        ],
    }  # fmt: skip


def _plugin(part: Document) -> str:
    parameters = ", ".join(f"{key}={value}" for key, value in sorted(part["parameters"].items()))
    return f"{part['name']} version {part['version']}: {parameters or 'no parameters'}"


def _embedded(value: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
