"""What changed between two states of the leaderboards, from the tables that were built of each."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from robustbench_lite.errors import UsageError
from robustbench_lite.files.reading import RECORD_BYTES, Form, explain
from robustbench_lite.files.text import read_json
from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.board import TABLES
from robustbench_lite.leaderboard.standing.ranking import RankRange

_TABLE = Form(
    noun="table",
    what="no table as `rbl leaderboard build` writes them, in valid JSON",
    most=RECORD_BYTES,
    error=UsageError,
    fix="Run `rbl leaderboard build`.",
)


class _Part(BaseModel):
    """Base of what is compared of a document.

    Other versions may write more fields, or other ones.
    """

    model_config = ConfigDict(frozen=True)


class _Missing(_Part):
    missing: str


class _Share(_Part):
    accuracy: float
    n: int
    digest: str | None = None


_Cell = Annotated[_Missing | _Share, Field(union_mode="left_to_right")]


class _Standing(_Part):
    worst: _Cell
    certified: _Cell
    attacks: dict[str, _Cell]


class _Row(_Part):
    rank: RankRange | None
    model: str
    defense: str
    clean: _Cell
    threats: dict[str, _Standing]
    flags: list[str]


class _Attack(_Part):
    id: str
    heading: str


class _Threat(_Part):
    id: str
    title: str
    attacks: list[_Attack]


class _Document(_Part):
    rows: list[_Row]
    threats: list[_Threat]


class ShownBoard(NamedTuple):
    """What stands in the tables of a board."""

    rows: int
    values: dict[str, str]
    """By row and column."""


Boards = dict[str, ShownBoard]
"""By the name of the board."""


@contextmanager
def tables_at(where: str | None, root: Path) -> Iterator[Boards]:
    """What the tables say of a folder, of a git revision, or (None) of ``root`` as it is."""
    if where is None or os.path.isdir(where):
        yield _read_tables(root if where is None else Path(where))
        return
    with tempfile.TemporaryDirectory() as folder:
        _extract(where, root, Path(folder))
        yield _read_tables(Path(folder))


def _read_tables(root: Path) -> Boards:
    boards = {}
    for path in sorted((root / TABLES).glob("*.json")):
        content = read_json(path, _TABLE)
        with explain(str(path), _TABLE):
            document = _Document.model_validate(content)
            boards[path.stem] = ShownBoard(len(document.rows), _values(document))
    return boards


def _extract(revision: str, root: Path, folder: Path) -> None:
    """The tables of a git revision; a revision from before the first table has none."""
    folder_of_root = root if root.is_dir() else Path()
    command = [
        "git",
        "-C",
        str(folder_of_root),
        "archive",
        "--format=tar",
        "--end-of-options",
        revision,
        TABLES,
    ]
    known = subprocess.run(
        [
            *command[:3],
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{commit}}",
        ],
        capture_output=True,
        check=False,
    )
    if known.returncode:
        raise UsageError(
            f"{revision!r} is neither a folder nor a revision of the git repository that {root} "
            "lies in."
        )
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            (folder / TABLES).mkdir(parents=True, exist_ok=True)
            # plain files by their names alone: an archive says where else it would like to write
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    (folder / TABLES / Path(member.name).name).write_bytes(content.read())


def changes(base: Boards, head: Boards) -> list[str]:
    """One line for each thing that changed."""
    lines = [f"{name}: the board is gone" for name in sorted(base.keys() - head.keys())]
    for name, now in sorted(head.items()):
        if name not in base:
            lines.append(f"{name}: the board is new, {now.rows} rows")
            continue
        before = base[name].values
        after = now.values
        for key in dict.fromkeys([*after, *before]):
            old = before.get(key)
            new = after.get(key)
            if old != new:
                lines.append(f"{name}: {key}: {old or 'not there'} -> {new or 'not there'}")
    return lines


def _values(document: _Document) -> dict[str, str]:
    values: dict[str, str] = {}
    for row in document.rows:
        label = words.entrant(row.model, row.defense)
        values[f"{label}, rank"] = words.MISSING if row.rank is None else str(row.rank)
        values[f"{label}, clean"] = _cell(row.clean)
        for threat in document.threats:
            standing = row.threats[threat.id]
            where = f"{label}, {threat.title}"
            for attack in threat.attacks:
                values[f"{where}, {attack.heading}"] = _cell(standing.attacks[attack.id])
            values[f"{where}, worst case"] = _cell(standing.worst)
            values[f"{where}, certified"] = _cell(standing.certified)
        if row.flags:
            key = f"{label}, flag"
            values[key] = "; ".join([*filter(None, [values.get(key)]), *row.flags])
    return values


def _cell(cell: _Missing | _Share) -> str:
    if isinstance(cell, _Missing):
        return words.MISSING
    digest = "" if cell.digest is None else f", digest {cell.digest[:8]}"
    return f"{words.percent(cell.accuracy)} % (n = {cell.n:,}{digest})"
