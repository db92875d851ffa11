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
from typing import Any

from robustbench_lite.errors import UsageError
from robustbench_lite.files.reading import RECORD_BYTES, Form, explained
from robustbench_lite.files.text import read_json
from robustbench_lite.leaderboard.board import TABLES
from robustbench_lite.leaderboard.tables import percent, rank

Documents = dict[str, dict[str, Any]]
_TABLE = Form(
    noun="table", what="no table as `rbl leaderboard build` writes them, in valid JSON", most=RECORD_BYTES, error=UsageError,
    fix="Run `rbl leaderboard build`.",
)  # fmt: skip


@contextmanager
def tables_at(where: str | None, root: Path) -> Iterator[Documents]:
    """The documents by board of a folder, of a git revision, or (None) of ``root`` as it is."""
    if where is None or os.path.isdir(where):
        yield _read(root if where is None else Path(where))
        return
    with tempfile.TemporaryDirectory() as folder:
        _extract(where, root, Path(folder))
        yield _read(Path(folder))


def _read(root: Path) -> Documents:
    documents = {}
    for path in sorted((root / TABLES).glob("*.json")):
        document = read_json(path, _TABLE)
        with explained(str(path), _TABLE):
            _values(document)
        documents[path.stem] = document
    return documents


def _extract(revision: str, root: Path, folder: Path) -> None:
    """The tables of a git revision; a revision from before the first table has none."""
    folder_of_root = root if root.is_dir() else Path()
    command = ["git", "-C", str(folder_of_root), "archive", "--format=tar", "--end-of-options", revision, TABLES]
    known = subprocess.run(
        [*command[:3], "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"],
        capture_output=True,
        check=False,
    )
    if known.returncode:
        raise UsageError(f"{revision!r} is neither a folder nor a revision of the git repository that {root} lies in.")
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            (folder / TABLES).mkdir(parents=True, exist_ok=True)
            for member in archive:  # plain files by their names alone: an archive says where else it would like to write
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    (folder / TABLES / Path(member.name).name).write_bytes(content.read())


def changes(base: Documents, head: Documents) -> list[str]:
    """One line for each thing that changed."""
    lines = [f"{name}: the board is gone" for name in sorted(base.keys() - head.keys())]
    for name in sorted(head):
        before = _values(base[name]) if name in base else {}
        after = _values(head[name])
        if name not in base:
            lines.append(f"{name}: the board is new, {len(head[name]['rows'])} rows")
            continue
        for key in [*after, *(key for key in before if key not in after)]:
            old, new = before.get(key), after.get(key)
            if old != new:
                lines.append(f"{name}: {key}: {old or 'not there'} -> {new or 'not there'}")
    return lines


def _values(doc: dict[str, Any]) -> dict[str, str]:
    """What stands in the tables, by row and column."""
    values: dict[str, str] = {}
    for row in doc["rows"]:
        label = f"{row['model']} ({row['defense']})"
        values[f"{label}, rank"] = rank(row)
        values[f"{label}, clean"] = _cell(row["clean"])
        for threat in doc["threats"]:
            part = row["threats"][threat["id"]]
            for attack in threat["attacks"]:
                values[f"{label}, {threat['title']}, {attack['heading']}"] = _cell(part["attacks"][attack["id"]])
            values[f"{label}, {threat['title']}, worst case"] = _cell(part["worst"])
            values[f"{label}, {threat['title']}, certified"] = _cell(part["certified"])
        for flag in row["flags"]:
            values[f"{label}, flag"] = flag if f"{label}, flag" not in values else f"{values[f'{label}, flag']}; {flag}"
    return values


def _cell(cell: dict[str, Any]) -> str:
    if "missing" in cell:
        return "-"
    digest = f", digest {cell['digest'][:8]}" if "digest" in cell else ""
    return f"{percent(cell['accuracy'])} % (n = {cell['n']:,}{digest})"
