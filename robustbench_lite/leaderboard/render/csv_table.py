"""The tables of a board as one table in CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from robustbench_lite.leaderboard.standing.document import Counted, Document, Missing, RankedRow

_COLUMNS = [
    "board",
    "rank_best",
    "rank_worst",
    "model",
    "defense",
    "norm",
    "eps",
    "goal",
    "what",
    "attack",
    "n",
    "right",
    "accuracy",
    "interval_low",
    "interval_high",
    "median_distance",
    "forward_queries",
    "backward_queries",
    "digest",
    "missing",
]
_FIGURES = {*_COLUMNS} - {"model", "defense", "attack"}
"""Columns that a cell may have as fields; those taken out here mean something else in it."""


def as_csv(doc: Document) -> str:
    """Write one line a row, threat model and attack.

    Worst case and certificate are attacks of their own. Fractions are in [0, 1].
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in doc.rows:
        writer.writerows(_lines(doc, row))
    return text.getvalue()


def _lines(doc: Document, row: RankedRow) -> Iterator[dict[str, Any]]:
    """Yield the lines of one row, by column."""
    best, worst = row.rank or ("", "")
    known = {
        "board": doc.board,
        "rank_best": best,
        "rank_worst": worst,
        "model": row.model,
        "defense": row.defense,
    }
    yield known | _figures("clean", row.clean)
    for threat in doc.threats:
        standing = row.threats[threat.id]
        here = known | {"norm": threat.norm, "eps": threat.eps or "none", "goal": threat.goal}
        for attack in threat.attacks:
            cell = standing.attacks[attack.id]
            yield here | {"attack": attack.attack} | _figures(attack.heading, cell)
        yield here | _figures("worst case", standing.worst)
        yield here | _figures("certified", standing.certified)


def _figures(what: str, cell: Counted | Missing) -> dict[str, Any]:
    """Write what is known of a cell, by column."""
    if isinstance(cell, Missing):
        return {"what": what, "missing": cell.missing}
    low, high = cell.interval
    told = cell.model_dump(include=_FIGURES, exclude_none=True)
    return {"what": what, "interval_low": low, "interval_high": high, **told}
