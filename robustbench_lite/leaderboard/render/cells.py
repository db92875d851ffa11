"""What stands in the cells, the headings and the caption of a board's tables, in any format."""

from __future__ import annotations

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.standing.document import (
    AttackColumn,
    Counted,
    Document,
    MeanQueries,
    MeasuredCell,
    Missing,
    OpenRange,
    RankedRow,
    Standing,
    ThreatTable,
)
from robustbench_lite.leaderboard.words import MISSING


def share(cell: Counted | Missing) -> str:
    """Write a share with its interval in percent, ``12.3 [10.1, 14.8]``, or ``-``."""
    if isinstance(cell, Missing):
        return MISSING
    text = words.share(cell.accuracy, cell.interval)
    return words.at_most(text, cell.attack) if isinstance(cell, MeasuredCell) else text


def between(cell: OpenRange | Missing) -> str:
    """Write what certificate and attacks leave open: ``12.3 to 45.6``."""
    if isinstance(cell, Missing):
        return MISSING
    return f"{words.percent(cell.low)} to {words.percent(cell.high)}"


def queries(cell: MeanQueries | Missing) -> str:
    """Write ``forward + backward`` queries a sample."""
    return MISSING if isinstance(cell, Missing) else words.queries(cell.forward, cell.backward, 0)


def rank(row: RankedRow) -> str:
    """Write the places that a row may hold."""
    return MISSING if row.rank is None else str(row.rank)


def caption(doc: Document, threat: ThreatTable) -> str:
    """Write units and n of one table."""
    told = ", ".join(f"{attack.heading} {counts(attack)}" for attack in threat.attacks)
    whole = ", ".join(attack.heading for attack in threat.whole)
    model = words.threat_in_full(threat.norm, threat.eps, threat.goal)
    return (
        f"{doc.data}, {model}. Robust accuracy in %, with 95 % Wilson intervals; {told}. "
        f"Worst case: robust is what none of those broke that met all samples ({whole}). "
        "Open: the true robust accuracy lies between certified and worst case. "
        f"{_LAST if threat.suites else ''}"
        "Queries: forward + backward passes a sample that was classified correctly, "
        "over the attacks that met all samples."
    )


_LAST = "Broke last: the last stage of the suite that broke anything, and how much. "


def last(standing: Standing) -> str:
    """Write what broke last: ``square (3)``."""
    found = standing.last
    return MISSING if found is None else f"{found.stage} ({found.broken:,})"


def counts(attack: AttackColumn) -> str:
    """Say on how many samples an attack is run, with how many queries each."""
    budget = attack.query_budget
    return f"n = {attack.n:,}" + ("" if budget is None else f" (at most {budget:,} queries)")


def rank_note(doc: Document) -> str:
    """Say how ranks come about."""
    title = next(threat.title for threat in doc.threats if threat.id == doc.ranking.threat)
    return (
        f"Rank: by the worst case under {title}; rows whose paired difference is not significant "
        f"share places (exact McNemar test, Holm's correction, alpha = {doc.ranking.alpha:g})."
    )


def headings(threat: ThreatTable) -> list[str]:
    """Name the columns of one table."""
    attacks = [attack.heading for attack in threat.attacks]
    before = ["rank", "model", "defense", "clean"]
    after = ["worst case", "certified", "open", "queries"]
    return [*before, *attacks, *after, *(["broke last"] if threat.suites else [])]


def values(row: RankedRow, threat: ThreatTable) -> list[str]:
    """Write one row of one table."""
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
        *([last(standing)] if threat.suites else []),
    ]


def missing(doc: Document) -> list[str]:
    """Say why a "-" stands where it stands."""
    reasons = [f"{gap.where}: {gap.reason}" for gap in doc.gaps()]
    unproved = sorted({row.name for row in doc.rows if not row.is_certified})
    if unproved:
        reasons.append(f"certified: no certificate for {', '.join(unproved)}")
    return reasons
