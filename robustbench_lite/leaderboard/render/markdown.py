"""The tables of a board as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.render.cells import (
    caption,
    counts,
    headings,
    missing,
    rank_note,
    values,
)
from robustbench_lite.leaderboard.standing.document import Document, ThreatTable
from robustbench_lite.leaderboard.words import MISSING


def markdown_table(doc: Document, threat: ThreatTable) -> str:
    """Write one threat model as a table."""
    rows = [values(row, threat) for row in doc.rows]
    return _pipes(headings(threat), [[cell.replace("|", r"\|") for cell in row] for row in rows])


def as_markdown(doc: Document) -> str:
    """Write the whole board."""
    parts = [f"# {doc.title}", doc.about.strip(), rank_note(doc)]
    for threat in doc.threats:
        told = (f"{a.heading}: `{a.attack}`, {counts(a)}" for a in threat.attacks)
        parts += [f"## {threat.title}", markdown_table(doc, threat)]
        parts += [caption(doc, threat), _bullets(told)]
    flags = _bullets(f"{row.name}: {flag}" for row in doc.rows for flag in row.flags)
    parts += ["## Flags", flags] if flags else []
    gaps = _bullets(missing(doc))
    parts += ['## Where "-" stands', gaps] if gaps else []
    parts += ["## Records", _records(doc)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(doc: Document) -> str:
    """List every cell with its record."""
    headings = ["defense", "threat", "attack", "n", "median distance", "queries a sample", "record"]
    rows = []
    for row, threat, attack, cell in doc.measured():
        link = f"[{cell.key[:8]}](../results/{doc.board}/cells/{cell.record})"
        median = MISSING if cell.median_distance is None else f"{cell.median_distance:g}"
        asked = words.queries(cell.forward_queries, cell.backward_queries)
        rows.append([row.defense, threat.title, attack.heading, f"{cell.n:,}", median, asked, link])
    return _pipes(headings, rows)


def _bullets(lines: Iterable[str]) -> str:
    """Write a list; of nothing, nothing."""
    return "\n".join(f"- {line}" for line in lines)


def _pipes(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
