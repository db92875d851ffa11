"""The formats of a board's tables, each a function of the document alone."""

from __future__ import annotations

import json
from collections.abc import Callable

from robustbench_lite.leaderboard.render.csv_table import as_csv
from robustbench_lite.leaderboard.render.latex import as_latex
from robustbench_lite.leaderboard.render.markdown import as_markdown
from robustbench_lite.leaderboard.standing.document import Document


def as_json(doc: Document) -> str:
    """Write the document itself."""
    content = doc.model_dump(mode="json")
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Document], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "tex": as_latex,
}
"""File name suffix -> what writes it."""
