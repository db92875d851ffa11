"""Everything that is rendered, as file name -> text.

It is a pure function of boards, results and the versions of the plug-ins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import OPTIONS_BYTES, Form
from robustbench_lite.files.text import read_text
from robustbench_lite.leaderboard.board import PAGE, TABLES
from robustbench_lite.leaderboard.examples import read_examples
from robustbench_lite.leaderboard.load import Loaded, load
from robustbench_lite.leaderboard.render.cells import caption, rank_note
from robustbench_lite.leaderboard.render.gallery import Picture, pictures
from robustbench_lite.leaderboard.render.markdown import markdown_table
from robustbench_lite.leaderboard.render.page import MAX_BYTES, Section, page, section
from robustbench_lite.leaderboard.render.tables import FORMATS
from robustbench_lite.leaderboard.results import GALLERY, Problem, results_folder
from robustbench_lite.leaderboard.standing.document import Document
from robustbench_lite.leaderboard.standing.summary import document
from robustbench_lite.records.files import write_text
from robustbench_lite.registry import Trust

_PAGE = Form(
    noun="page",
    what="no page that a table can be put into",
    most=OPTIONS_BYTES,
    error=UsageError,
    fix="Write it as UTF-8 text, or move it away.",
)
INCLUDES = ("README.md", "../README.md")
"""Pages that may take a table in, between two comments: ``<!-- rbl leaderboard: BOARD THREAT -->``
and ``<!-- end -->``.
"""
_INCLUDE = re.compile(r"(<!-- rbl leaderboard: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TITLE = "robustbench_lite leaderboards"
_SHOWN = 3
"""Rows of a column that the gallery shows, from the first rank on: the page stays small."""


class Built(NamedTuple):
    """What was rendered."""

    files: dict[str, str]
    """Path relative to the leaderboards folder -> text."""
    problems: list[Problem]
    loaded: list[Loaded]


class Gallery(NamedTuple):
    """What a board shows of its examples."""

    pictures: list[Picture]
    problems: list[Problem]
    """One for each file of examples that is damaged."""


def build(root: Path, trust: Trust = Trust.REGISTERED) -> Built:
    """Render every board of ``root``. Writes nothing."""
    loaded = load(root, trust=trust)
    files: dict[str, str] = {}
    problems = [problem for one in loaded for problem in one.filled.problems]
    documents: dict[str, Document] = {}
    sections: list[Section] = []
    for one in loaded:
        name = one.board.name
        doc = documents[name] = document(one.sheet)
        for suffix, render in FORMATS.items():
            files[f"{TABLES}/{name}.{suffix}"] = render(doc)
        gallery = _gallery(one, doc, root)
        problems += gallery.problems
        sections.append(section(one.sheet, doc, gallery.pictures))
    files[PAGE] = page(_TITLE, sections)
    size = len(files[PAGE].encode())
    if size > MAX_BYTES:
        what = f"it has {size:,} bytes, at most {MAX_BYTES:,} are allowed"
        problems.append(Problem(PAGE, what, "lower gallery in a board"))
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


def _gallery(one: Loaded, doc: Document, root: Path) -> Gallery:
    """The examples of the first rows, column by column; those of the others are read as well."""
    gallery = Gallery([], [])
    folder = results_folder(one.board, root) / GALLERY
    by_key = {found.record.key: found for found in one.sheet.cells.values()}
    read: Counter[str] = Counter()
    for row, threat, attack, cell in doc.measured():
        path = folder / cell.record
        if not path.exists() or not one.board.gallery:
            continue
        try:
            examples = read_examples(path, by_key[cell.key])
            read[attack.id] += 1
            if read[attack.id] <= _SHOWN:
                caption = f"{attack.heading} against {row.defense}, {threat.title}"
                gallery.pictures.extend(pictures(caption, examples))
        except RecordError as error:
            mend = f"rm {path} && rbl leaderboard run {one.board.name}"
            where = path.relative_to(root).as_posix()
            gallery.problems.append(Problem(where, str(error), mend))
    return gallery


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
    return _INCLUDE.sub(lambda m: f"{m[1]}{_include(name, m[2], m[3], documents)}{m[4]}", before)


def _include(page_name: str, board: str, threat: str, documents: Mapping[str, Document]) -> str:
    doc = documents.get(board)
    chosen = None if doc is None else doc.threat(threat)
    if doc is None or chosen is None:
        raise UsageError(
            f"{page_name} takes in the table {threat!r} of the board {board!r}, which there is not."
        )
    words = f"{caption(doc, chosen)} {rank_note(doc)}"
    return f"\n{markdown_table(doc, chosen)}\n\n{words}\n\n"
