"""The tables of a board as Markdown, CSV, JSON and LaTeX: each a function of the document alone, the same bytes anywhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from robustbench_lite.leaderboard.standing import Document

MISSING = "-"
"""What stands for a value that was not measured: never 0."""
_TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def percent(value: float) -> str:
    """A fraction in percent, with one digit after the point."""
    return f"{100 * value:.1f}"


def share(cell: Mapping[str, Any]) -> str:
    """``12.3 [10.1, 14.8]`` in percent, or ``-``."""
    if "missing" in cell:
        return MISSING
    low, high = cell["interval"]
    return f"{percent(cell['accuracy'])} [{percent(low)}, {percent(high)}]"


def between(cell: Mapping[str, Any]) -> str:
    """What certificate and attacks leave open: ``12.3 to 45.6``."""
    return MISSING if "missing" in cell else f"{percent(cell['low'])} to {percent(cell['high'])}"


def queries(cell: Mapping[str, Any]) -> str:
    """``forward + backward`` queries a sample."""
    return MISSING if "missing" in cell else f"{cell['forward']:,.0f} + {cell['backward']:,.0f}"


def rank(row: Mapping[str, Any]) -> str:
    """The places that a row may hold."""
    if row["rank"] is None:
        return MISSING
    best, worst = row["rank"]
    return str(best) if best == worst else f"{best}-{worst}"


def caption(doc: Document, threat: Mapping[str, Any]) -> str:
    """Units and n of one table."""
    counts = ", ".join(f"{a['heading']} n = {a['n']:,}{_budget(a)}" for a in threat["attacks"])
    radius = "any size" if threat["eps"] is None else f"eps = {threat['eps']}{' pixels' if threat['norm'] == 'l0' else ''}"
    goal = "" if threat["goal"] == "untargeted" else f", goal {threat['goal']}"
    return (
        f"{doc['data']}, {threat['norm']} {radius}{goal}. Robust accuracy in %, with 95 % Wilson intervals; {counts}. "
        "Worst case: a sample counts as robust if none of the attacks that were run on it broke it. "
        "Open: the true robust accuracy lies between certified and worst case. "
        "Queries: forward + backward passes a sample that was classified correctly, over all attacks."
    )


def rank_note(doc: Document) -> str:
    """How ranks come about."""
    threat = next(threat for threat in doc["threats"] if threat["id"] == doc["ranking"]["threat"])
    return (
        f"Rank: by the worst case under {threat['title']}; rows whose paired difference is not significant share places (exact "
        f"McNemar test, Holm's correction, alpha = {doc['ranking']['alpha']:g})."
    )


def headings(threat: Mapping[str, Any]) -> list[str]:
    """Columns of one table."""
    return [
        "rank",
        "model",
        "defense",
        "clean",
        *(a["heading"] for a in threat["attacks"]),
        "worst case",
        "certified",
        "open",
        "queries",
    ]


def values(row: Mapping[str, Any], threat: Mapping[str, Any]) -> list[str]:
    """One row of one table."""
    part = row["threats"][threat["id"]]
    attacks = [share(part["attacks"][a["id"]]) for a in threat["attacks"]]
    return [
        rank(row), row["model"], row["defense"], share(row["clean"]), *attacks, share(part["worst"]), share(part["certified"]),
        between(part["open"]), queries(part["queries"]),
    ]  # fmt: skip


def missing(doc: Document) -> list[str]:
    """Why a "-" stands where it stands."""
    reasons = [
        f"{row['model']} ({row['defense']}), {threat['title']}, {attack['heading']}: {cell['missing']}"
        for row in doc["rows"]
        for threat in doc["threats"]
        for attack in threat["attacks"]
        if "missing" in (cell := row["threats"][threat["id"]]["attacks"][attack["id"]])
    ]
    without = sorted({
        f"{row['model']} ({row['defense']})" for row in doc["rows"]
        if all("missing" in row["threats"][t["id"]]["certified"] for t in doc["threats"])
    })  # fmt: skip
    return [*reasons, *([f"certified: no certificate for {', '.join(without)}"] if without else [])]


def markdown_table(doc: Document, threat: Mapping[str, Any]) -> str:
    """One threat model as a table."""
    lines = [headings(threat), ["---"] * len(headings(threat)), *(values(row, threat) for row in doc["rows"])]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def markdown(doc: Document) -> str:
    """The whole board."""
    parts = [f"# {doc['title']}", doc["about"].strip(), rank_note(doc)]
    for threat in doc["threats"]:
        attacks = "\n".join(f"- {a['heading']}: `{a['attack']}`, n = {a['n']:,}{_budget(a)}" for a in threat["attacks"])
        parts += [f"## {threat['title']}", markdown_table(doc, threat), caption(doc, threat), attacks]
    flags = [f"- {row['model']} ({row['defense']}): {flag}" for row in doc["rows"] for flag in row["flags"]]
    parts += ["## Flags", "\n".join(flags)] if flags else []
    gaps = [f"- {reason}" for reason in missing(doc)]
    parts += ['## Where "-" stands', "\n".join(gaps)] if gaps else []
    parts += ["## Records", _records(doc)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(doc: Document) -> str:
    """Every cell with its record."""
    lines = [
        ["defense", "threat", "attack", "n", "median distance", "queries a sample", "record"], ["---"] * 7,
    ]  # fmt: skip
    for row, threat, attack, cell in measured(doc):
        link = f"[{cell['key'][:8]}](../results/{doc['board']}/cells/{cell['record']})"
        median = MISSING if cell["median_distance"] is None else f"{cell['median_distance']:g}"
        asked = f"{cell['forward_queries']:,.1f} + {cell['backward_queries']:,.1f}"
        lines.append([row["defense"], threat["title"], attack["heading"], f"{cell['n']:,}", median, asked, link])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(doc: Document) -> list[tuple[Document, Document, Document, Document]]:
    """Row, threat, attack and cell of everything that was measured."""
    return [
        (row, threat, attack, row["threats"][threat["id"]]["attacks"][attack["id"]])
        for row in doc["rows"]
        for threat in doc["threats"]
        for attack in threat["attacks"]
        if "missing" not in row["threats"][threat["id"]]["attacks"][attack["id"]]
    ]


def as_csv(doc: Document) -> str:
    """One line a row, threat model and attack; worst case and certificate as attacks of their own; fractions in [0, 1]."""
    text = io.StringIO()
    names = [
        "board", "rank_best", "rank_worst", "model", "defense", "norm", "eps", "goal", "what", "attack", "n", "right",
        "accuracy", "interval_low", "interval_high", "median_distance", "forward_queries", "backward_queries",
        "digest", "missing",
    ]  # fmt: skip
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in doc["rows"]:
        best, worst = row["rank"] or ("", "")
        known = {
            "board": doc["board"],
            "rank_best": best,
            "rank_worst": worst,
            "model": row["model"],
            "defense": row["defense"],
        }
        writer.writerow(known | _columns("clean", row["clean"]))
        for threat in doc["threats"]:
            part = row["threats"][threat["id"]]
            here = known | {"norm": threat["norm"], "eps": threat["eps"] or "none", "goal": threat["goal"]}
            for attack in threat["attacks"]:
                writer.writerow(
                    here | {"attack": attack["attack"]} | _columns(attack["heading"], part["attacks"][attack["id"]])
                )
            writer.writerow(here | _columns("worst case", part["worst"]))
            writer.writerow(here | _columns("certified", part["certified"]))
    return text.getvalue()


def _columns(what: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    if "missing" in cell:
        return {"what": what, "missing": cell["missing"]}
    low, high = cell["interval"]
    names = ("n", "right", "accuracy", "median_distance", "forward_queries", "backward_queries", "digest")
    told = {name: cell[name] for name in names if cell.get(name) is not None}
    return {"what": what, "interval_low": low, "interval_high": high, **told}


def as_json(doc: Document) -> str:
    """The document itself."""
    return json.dumps(doc, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def latex(doc: Document) -> str:
    """A ``tabular`` for each threat model, with booktabs."""
    parts = [f"% {doc['title']}: needs \\usepackage{{booktabs}}. Written by `rbl leaderboard build`."]
    for threat in doc["threats"]:
        names = headings(threat)
        rows = [" & ".join(map(_tex, line)) + r" \\" for line in (names, *(values(row, threat) for row in doc["rows"]))]
        words = f"{threat['title']}. {caption(doc, threat)} {rank_note(doc)}"
        lines = [
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(words)}}}",
            rf"\begin{{tabular}}{{rll{'r' * (len(names) - 3)}}}", r"\toprule", rows[0], r"\midrule",
            *rows[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    return "".join(_TEX_SPECIAL.get(character, character) for character in text)


def _budget(attack: Mapping[str, Any]) -> str:
    return "" if attack["query_budget"] is None else f" (at most {attack['query_budget']:,} queries)"


FORMATS: dict[str, Callable[[Document], str]] = {"md": markdown, "csv": as_csv, "json": as_json, "tex": latex}
"""File name suffix -> what writes it."""
