"""The tables of a board as LaTeX."""

from __future__ import annotations

from robustbench_lite.leaderboard.render.cells import caption, headings, rank_note, values
from robustbench_lite.leaderboard.standing.document import Document, ThreatTable

_SPECIAL = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def as_latex(doc: Document) -> str:
    """Write a ``tabular`` for each threat model, with booktabs."""
    needs = r"needs \usepackage{booktabs}. Written by `rbl leaderboard build`."
    parts = [f"% {doc.title}: {needs}", *(_table(doc, threat) for threat in doc.threats)]
    return "\n\n".join(parts) + "\n"


def _table(doc: Document, threat: ThreatTable) -> str:
    """Write the table of one threat model."""
    names = headings(threat)
    rows = [
        " & ".join(cell.translate(_SPECIAL) for cell in line) + r" \\"
        for line in (names, *(values(row, threat) for row in doc.rows))
    ]
    told = f"{threat.title}. {caption(doc, threat)} {rank_note(doc)}"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{told.translate(_SPECIAL)}}}",
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
