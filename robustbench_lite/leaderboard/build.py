"""Everything that is rendered, as file name -> text: a pure function of boards, results and the versions of the plug-ins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import OPTIONS_BYTES, Form
from robustbench_lite.files.text import read_text
from robustbench_lite.leaderboard import tables
from robustbench_lite.leaderboard.board import PAGE, TABLES, Board, load_boards
from robustbench_lite.leaderboard.gallery import Picture, pictures, read_examples
from robustbench_lite.leaderboard.page import MAX_BYTES, Section, page, section
from robustbench_lite.leaderboard.results import GALLERY, Filled, Found, Problem, fill, results_folder
from robustbench_lite.leaderboard.sheet import Sheet, of_board
from robustbench_lite.leaderboard.slots import expand
from robustbench_lite.leaderboard.standing import Document, document
from robustbench_lite.records.files import write_text
from robustbench_lite.registry import Trust

_PAGE = Form(
    noun="page", what="no page that a table can be put into", most=OPTIONS_BYTES, error=UsageError,
    fix="Write it as UTF-8 text, or move it away.",
)  # fmt: skip
INCLUDES = ("README.md", "../README.md")
"""Pages that may take a table in, between two comments: ``<!-- rbl leaderboard: BOARD THREAT -->`` and ``<!-- end -->``."""
_INCLUDE = re.compile(r"(<!-- rbl leaderboard: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TITLE = "robustbench_lite leaderboards"


class Loaded(NamedTuple):
    """A board with what was found of it."""

    board: Board
    filled: Filled
    sheet: Sheet


class Built(NamedTuple):
    """What was rendered."""

    files: dict[str, str]
    """Path relative to the leaderboards folder -> text."""
    problems: list[Problem]
    loaded: list[Loaded]


def load(root: Path, names: Sequence[str] = (), trust: Trust = Trust.REGISTERED) -> list[Loaded]:
    """Boards with their records, sorted by name; ``trust`` is for the code that a board may name."""
    loaded = []
    for board in load_boards(root, names):
        filled = fill(board, expand(board, root, trust), root)
        loaded.append(Loaded(board, filled, of_board(board, filled)))
    return loaded


def build(root: Path, trust: Trust = Trust.REGISTERED) -> Built:
    """Render every board of ``root``. Writes nothing."""
    loaded = load(root, trust=trust)
    files: dict[str, str] = {}
    problems = [problem for one in loaded for problem in one.filled.problems]
    documents: dict[str, Document] = {}
    sections: list[Section] = []
    for board, _, sheet in loaded:
        doc = documents[board.name] = document(sheet)
        files |= {f"{TABLES}/{board.name}.{suffix}": render(doc) for suffix, render in tables.FORMATS.items()}
        shown, damaged = _gallery(board, sheet, doc, root)
        problems += damaged
        sections.append(section(sheet, doc, shown))
    files[PAGE] = page(_TITLE, sections)
    if len(files[PAGE].encode()) > MAX_BYTES:
        problems.append(
            Problem(
                PAGE,
                f"it has {len(files[PAGE].encode()):,} bytes, at most {MAX_BYTES:,} are allowed",
                "lower gallery in a board",
            )
        )
    return Built(files | _includes(root, documents), problems, loaded)


def write(root: Path, files: Mapping[str, str]) -> list[str]:
    """Write what is not there yet as it should be; returns the paths that changed."""
    changed = []
    for name, text in sorted(files.items()):
        path = root / name
        if not path.is_file() or path.read_bytes() != text.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            changed.append(name)
    return changed


_SHOWN = 3
"""Rows of a column that the gallery shows, from the first rank on: the page stays small."""


def _gallery(board: Board, sheet: Sheet, doc: Document, root: Path) -> tuple[list[Picture], list[Problem]]:
    shown, problems = [], []
    seen: Counter[str] = Counter()
    by_key: dict[str, Found] = {found.record.key: found for found in sheet.cells.values()}
    for row, threat, attack, cell in tables.measured(doc):
        path = results_folder(board, root) / GALLERY / cell["record"]
        if not path.exists() or not board.gallery:
            continue
        try:
            content = read_examples(path, by_key[cell["key"]])
            seen[attack["id"]] += 1
            if seen[attack["id"]] > _SHOWN:
                continue
            shown += pictures(f"{attack['heading']} against {row['defense']}, {threat['title']}", content)
        except RecordError as error:
            problems.append(
                Problem(path.relative_to(root).as_posix(), str(error), f"rm {path} && rbl leaderboard run {board.name}")
            )
    return shown, problems


def _includes(root: Path, documents: Mapping[str, Document]) -> dict[str, str]:
    """The pages that take a table in, with the tables as they are now."""
    files = {}
    for name in INCLUDES:
        path = root / name
        before = read_text(path, _PAGE) if path.is_file() else ""
        if _INCLUDE.search(before):
            files[name] = _with_tables(name, before, documents)
    return files


def _with_tables(name: str, before: str, documents: Mapping[str, Document]) -> str:
    return _INCLUDE.sub(lambda m: f"{m[1]}{_included(name, m[2], m[3], documents)}{m[4]}", before)


def _included(page_name: str, board: str, threat: str, documents: Mapping[str, Document]) -> str:
    doc = documents.get(board)
    chosen = [t for t in doc["threats"] if t["id"] == threat] if doc else []
    if doc is None or not chosen:
        raise UsageError(f"{page_name} takes in the table {threat!r} of the board {board!r}, which there is not.")
    return f"\n{tables.markdown_table(doc, chosen[0])}\n\n{tables.caption(doc, chosen[0])} {tables.rank_note(doc)}\n\n"
