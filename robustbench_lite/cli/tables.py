"""A report as text: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from robustbench_lite.errors import UnknownNameError
from robustbench_lite.leaderboard import words

if TYPE_CHECKING:
    from robustbench_lite.evaluation.plan import Prospect
    from robustbench_lite.evaluation.report import Cell, Report
    from robustbench_lite.records.statistics import WilsonInterval

_CERTIFIED = "certified accuracy\n[95 % interval]"
_ROBUST = "robust accuracy\n[95 % interval]"
_MEDIAN = "median\ndistance"
_QUERIES = "queries a sample\nforward + backward"


def check_format(name: str, known: Iterable[str] | None = None) -> str:
    """``name``, if it is one of the ``known`` formats; by default those that a report can take."""
    known = list(FORMATS if known is None else known)
    if name not in known:
        raise UnknownNameError("format", name, known)
    return name


def render(report: Report, name: str) -> str:
    """The report in one of ``FORMATS``, without a newline at its end."""
    return FORMATS[name](report)


def foreseen(cells: Sequence[Prospect], name: str) -> str:
    """What would be measured, as a table or JSON."""
    from tabulate import tabulate

    headers = ["cell", "defense", "attack", "n", "state"]
    if name == "json":
        return json.dumps({"cells": [cell._asdict() for cell in cells]}, indent=1)
    if name == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([headers, *cells])
        return text.getvalue().rstrip("\n")
    return tabulate(cells, headers=headers, tablefmt="github" if name == "md" else "simple")


def notes(report: Report) -> list[str]:
    """Say what a reader must know beside the numbers, one line each.

    A line that holds for all cells is not repeated.
    """
    from robustbench_lite.sources.load_data import NOTES

    lines: dict[str, list[str]] = {}
    for cell in report.cells:
        label = f"{cell.defense} x {cell.attack}"
        if (note := NOTES.get(cell.identity.data.name)) is not None:
            lines.setdefault(f"{cell.identity.data.name}: {note}.", []).append(label)
        if cell.status == "partial":
            lines.setdefault(
                f"Partial: the first {cell.n:,} samples of {_data(cell)} only.", []
            ).append(label)
        if cell.cached:
            lines.setdefault(
                "Read from an earlier run's record; --fresh measures again.", []
            ).append(label)
        for flag in (
            *filter(None, [cell.note]),
            *(cell.record.provenance.flags if cell.record else ()),
        ):
            lines.setdefault(f"{flag[0].upper()}{flag[1:]}.", []).append(label)
        if (masking := report.masking(cell)) is not None:
            lines.setdefault(f"{masking[0].upper()}{masking[1:]}.", []).append(label)
    all_cells = len(report.cells)
    return [
        line if len(cells) == all_cells else f"{', '.join(cells)}: {line}"
        for line, cells in lines.items()
    ]


def say_where(report: Report) -> str | None:
    """Where the records are."""
    paths = [cell.path for cell in report.cells if cell.path is not None]
    if len(paths) == 1:
        return f"Record: {paths[0]}"
    return f"{len(paths)} records in {paths[0].parent}" if paths else None


def _table(report: Report, tablefmt: str = "simple") -> str:
    from tabulate import tabulate

    rows = [_row(cell) for cell in report.cells]
    empty = {name for name in (_MEDIAN, _CERTIFIED) if not any(row[name] for row in rows)}
    rows = [{name: text for name, text in row.items() if name not in empty} for row in rows]
    if tablefmt == "github":
        rows = [{name.replace("\n", " "): text for name, text in row.items()} for row in rows]
    return tabulate(
        rows, headers="keys", tablefmt=tablefmt, disable_numparse=True, colglobalalign="left"
    )


def _row(cell: Cell) -> dict[str, str]:
    """Column -> text of one cell."""
    row = {
        "model": cell.model,
        "defense": cell.defense,
        "attack": cell.attack,
        "threat": threat(cell),
        "n": f"{cell.n:,}",
        "clean\naccuracy": "",
        _CERTIFIED: "",
        _ROBUST: "error",
        _MEDIAN: "",
        _QUERIES: "",
        "time": "",
    }
    if cell.arrays is None:
        return row
    return row | {
        "clean\naccuracy": f"{cell.clean_accuracy:.1%}",
        _CERTIFIED: share(cell.certified_accuracy, cell.certified_interval),
        _ROBUST: words.at_most(share(cell.robust_accuracy, cell.interval), cell.identity.attack),
        _MEDIAN: _median(cell),
        _QUERIES: words.queries(*cell.arrays.mean_queries()),
        "time": "" if cell.seconds is None else duration(cell.seconds),
    }


def share(value: float | None, interval: WilsonInterval | None) -> str:
    """``74.5% [71.8, 77.1]``; empty for ``None``."""
    return "" if value is None or interval is None else words.share(value, interval, "%")


def threat(cell: Cell) -> str:
    """Norm, radius and goal in a few words."""
    model = cell.identity.threat
    return words.threat_in_short(model.norm, model.radius, model.goal)


def _median(cell: Cell) -> str:
    """Write the median distance, where it says something.

    Inside a given ball it says where the search was, not how near an adversarial is.
    """
    if cell.identity.threat.eps is not None:
        return ""
    return "over half hold" if cell.median_distance is None else f"{cell.median_distance:.4g}"


def _data(cell: Cell) -> str:
    return f"{cell.identity.data.name} {cell.identity.data.split}"


def duration(seconds: float) -> str:
    """``1.3 s``, ``2:05 min`` or ``1:02:03 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def _json(report: Report) -> str:
    return json.dumps(report.to_dict(), indent=1, allow_nan=False)


def _csv(report: Report) -> str:
    return str(report.to_frame().to_csv(index=False)).rstrip("\n")


FORMATS: dict[str, Callable[[Report], str]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "md": lambda report: "\n".join(
        [_table(report, "github"), "", *(f"- {note}" for note in notes(report))]
    ).rstrip(),
}
