"""The tables of a board as Markdown, CSV, JSON and LaTeX, each a function of the document alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.standing.document import (
    AttackColumn,
    Counted,
    Document,
    MeanQueries,
    Missing,
    OpenRange,
    RankedRow,
    ThreatTable,
)
from robustbench_lite.leaderboard.words import MISSING

_TEX_SPECIAL = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
_CSV_COLUMNS = [
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
_CSV_FIGURES = {*_CSV_COLUMNS} - {"model", "defense", "attack"}
"""Columns that a cell may have as fields; those taken out here mean something else in it."""


def share(cell: Counted | Missing) -> str:
    """``12.3 [10.1, 14.8]`` in percent, or ``-``."""
    return MISSING if isinstance(cell, Missing) else words.share(cell.accuracy, cell.interval)


def between(cell: OpenRange | Missing) -> str:
    """What certificate and attacks leave open: ``12.3 to 45.6``."""
    if isinstance(cell, Missing):
        return MISSING
    return f"{words.percent(cell.low)} to {words.percent(cell.high)}"


def queries(cell: MeanQueries | Missing) -> str:
    """``forward + backward`` queries a sample."""
    return MISSING if isinstance(cell, Missing) else words.queries(cell.forward, cell.backward, 0)


def rank(row: RankedRow) -> str:
    """The places that a row may hold."""
    return MISSING if row.rank is None else str(row.rank)


def caption(doc: Document, threat: ThreatTable) -> str:
    """Units and n of one table."""
    counts = ", ".join(f"{attack.heading} {_counts(attack)}" for attack in threat.attacks)
    model = words.threat_in_full(threat.norm, threat.eps, threat.goal)
    return (
        f"{doc.data}, {model}. Robust accuracy in %, with 95 % Wilson intervals; {counts}. "
        "Worst case: a sample counts as robust if none of the attacks that were run on it "
        "broke it. Open: the true robust accuracy lies between certified and worst case. "
        "Queries: forward + backward passes a sample that was classified correctly, "
        "over all attacks."
    )


def _counts(attack: AttackColumn) -> str:
    """On how many samples an attack is run, with how many queries each."""
    budget = attack.query_budget
    return f"n = {attack.n:,}" + ("" if budget is None else f" (at most {budget:,} queries)")


def rank_note(doc: Document) -> str:
    """How ranks come about."""
    title = next(threat.title for threat in doc.threats if threat.id == doc.ranking.threat)
    return (
        f"Rank: by the worst case under {title}; rows whose paired difference is not significant "
        f"share places (exact McNemar test, Holm's correction, alpha = {doc.ranking.alpha:g})."
    )


def headings(threat: ThreatTable) -> list[str]:
    """Columns of one table."""
    attacks = [attack.heading for attack in threat.attacks]
    before = ["rank", "model", "defense", "clean"]
    after = ["worst case", "certified", "open", "queries"]
    return [*before, *attacks, *after]


def values(row: RankedRow, threat: ThreatTable) -> list[str]:
    """One row of one table."""
    standing = row.threats[threat.id]
    return [
        rank(row),
        row.model,
        row.defense,
        share(row.clean),
        *(share(standing.attacks[attack.id]) for attack in threat.attacks),
        share(standing.worst),
        share(standing.certified),
        between(standing.open),
        queries(standing.queries),
    ]


def missing(doc: Document) -> list[str]:
    """Why a "-" stands where it stands."""
    reasons = [f"{gap.where}: {gap.reason}" for gap in doc.gaps()]
    unproved = sorted({row.name for row in doc.rows if not row.is_certified})
    if unproved:
        reasons.append(f"certified: no certificate for {', '.join(unproved)}")
    return reasons


def markdown_table(doc: Document, threat: ThreatTable) -> str:
    """One threat model as a table."""
    rows = [values(row, threat) for row in doc.rows]
    return _pipes(headings(threat), [[cell.replace("|", r"\|") for cell in row] for row in rows])


def markdown(doc: Document) -> str:
    """The whole board."""
    parts = [f"# {doc.title}", doc.about.strip(), rank_note(doc)]
    for threat in doc.threats:
        told = (f"{a.heading}: `{a.attack}`, {_counts(a)}" for a in threat.attacks)
        parts += [f"## {threat.title}", markdown_table(doc, threat)]
        parts += [caption(doc, threat), _bullets(told)]
    flags = _bullets(f"{row.name}: {flag}" for row in doc.rows for flag in row.flags)
    parts += ["## Flags", flags] if flags else []
    gaps = _bullets(missing(doc))
    parts += ['## Where "-" stands', gaps] if gaps else []
    parts += ["## Records", _records(doc)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(doc: Document) -> str:
    """Every cell with its record."""
    headings = ["defense", "threat", "attack", "n", "median distance", "queries a sample", "record"]
    rows = []
    for row, threat, attack, cell in doc.measured():
        link = f"[{cell.key[:8]}](../results/{doc.board}/cells/{cell.record})"
        median = MISSING if cell.median_distance is None else f"{cell.median_distance:g}"
        asked = words.queries(cell.forward_queries, cell.backward_queries)
        rows.append([row.defense, threat.title, attack.heading, f"{cell.n:,}", median, asked, link])
    return _pipes(headings, rows)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _pipes(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(doc: Document) -> str:
    """One line a row, threat model and attack; worst case and certificate as attacks of their own.

    Fractions are in [0, 1].
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in doc.rows:
        writer.writerows(_csv_rows(doc, row))
    return text.getvalue()


def _csv_rows(doc: Document, row: RankedRow) -> Iterable[dict[str, Any]]:
    best, worst = row.rank or ("", "")
    known = {
        "board": doc.board,
        "rank_best": best,
        "rank_worst": worst,
        "model": row.model,
        "defense": row.defense,
    }
    yield known | _csv_values("clean", row.clean)
    for threat in doc.threats:
        standing = row.threats[threat.id]
        here = known | {"norm": threat.norm, "eps": threat.eps or "none", "goal": threat.goal}
        for attack in threat.attacks:
            cell = standing.attacks[attack.id]
            yield here | {"attack": attack.attack} | _csv_values(attack.heading, cell)
        yield here | _csv_values("worst case", standing.worst)
        yield here | _csv_values("certified", standing.certified)


def _csv_values(what: str, cell: Counted | Missing) -> dict[str, Any]:
    if isinstance(cell, Missing):
        return {"what": what, "missing": cell.missing}
    low, high = cell.interval
    told = cell.model_dump(include=_CSV_FIGURES, exclude_none=True)
    return {"what": what, "interval_low": low, "interval_high": high, **told}


def as_json(doc: Document) -> str:
    """The document itself."""
    content = doc.model_dump(mode="json")
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def latex(doc: Document) -> str:
    """A ``tabular`` for each threat model, with booktabs."""
    needs = r"needs \usepackage{booktabs}. Written by `rbl leaderboard build`."
    parts = [f"% {doc.title}: {needs}", *(_latex_table(doc, threat) for threat in doc.threats)]
    return "\n\n".join(parts) + "\n"


def _latex_table(doc: Document, threat: ThreatTable) -> str:
    names = headings(threat)
    rows = [
        " & ".join(cell.translate(_TEX_SPECIAL) for cell in line) + r" \\"
        for line in (names, *(values(row, threat) for row in doc.rows))
    ]
    told = f"{threat.title}. {caption(doc, threat)} {rank_note(doc)}"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{told.translate(_TEX_SPECIAL)}}}",
        rf"\begin{{tabular}}{{rll{'r' * (len(names) - 3)}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Document], str]] = {
    "md": markdown,
    "csv": as_csv,
    "json": as_json,
    "tex": latex,
}
"""File name suffix -> what writes it."""
