"""Migrate records of schema version 1 to version 2, in place.

What they say stays, and so do their keys and digests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from robustbench_lite.errors import RecordError, RobustBenchError, UsageError
from robustbench_lite.files.reading import read_bytes
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.cell import RECORD, Record, parse_record, write_record
from robustbench_lite.records.certificate import (
    CertificateIdentity,
    CertificateRecord,
    parse_certificate,
    write_certificate,
)
from robustbench_lite.records.files import REPLACED
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.npz import read_npz, write_npz
from robustbench_lite.records.seal import SCHEMA_VERSION, check_versions

FOLDERS = ("cells", "certificates", REPLACED)
"""Where the records of a run lie."""
ADVERSARIALS = "adversarials.npz"
"""What `rbl attack` writes; a record is in it."""

Ask = Callable[[Identity | CertificateIdentity], Behaviour | None]
"""What the network of a record answers, asked now; None where nobody can tell."""


class Migrated(NamedTuple):
    """What became of a file."""

    path: Path
    state: Literal["migrated", "current", "refused"]
    reason: str = ""


def nobody(identity: Identity | CertificateIdentity) -> Behaviour | None:
    """Answer for a network that is not at hand.

    Such a record is read, and never taken for a measurement of a network.
    """
    return None


def files_of(paths: list[Path]) -> list[Path]:
    """The records in files and folders, sorted."""
    found: set[Path] = set()
    for path in paths:
        if path.is_file():
            found.add(path)
        elif not path.is_dir():
            raise UsageError(
                f"There is no file or folder {path}: name what `rbl evaluate --output` or `rbl "
                "attack` wrote."
            )
        elif path.name in FOLDERS:
            found.update(path.glob("*.json"))
        else:
            found.update(file for folder in FOLDERS for file in path.rglob(f"{folder}/*.json"))
            found.update(path.rglob(ADVERSARIALS))
    if not found:
        raise UsageError(
            f"There are no records in {', '.join(map(str, paths))}: name the folder that holds "
            f"{FOLDERS[0]}."
        )
    return sorted(found)


def migrate(paths: list[Path], ask: Ask = nobody) -> Iterator[Migrated]:
    """Migrate files one by one, each whole or not at all.

    One that cannot be believed is left as it is.
    """
    for path in paths:
        try:
            changed = (
                _migrate_adversarials(path) if path.suffix == ".npz" else _migrate_record(path, ask)
            )
        except RobustBenchError as error:
            yield Migrated(path, "refused", str(error))
        else:
            yield Migrated(path, "migrated" if changed else "current")


def _migrate_record(path: Path, ask: Ask) -> bool:
    """Migrate a record, of a cell or of a certificate; True if it was written."""
    record = upgrade(read_bytes(path, RECORD), str(path), ask)
    if record is None:
        return False
    if isinstance(record, Record):
        write_record(record, path)
    else:
        write_certificate(record, path)
    return True


def _migrate_adversarials(path: Path) -> bool:
    """Migrate the record in a file of adversarials; True if it was written."""
    arrays = read_npz(path)
    if "record" not in arrays:
        raise RecordError(f"{path} holds no record: it is no file of `rbl attack`.")
    record = upgrade(str(arrays.pop("record")), f"in {path}", nobody)
    if record is None:
        return False
    write_npz(path, **arrays, record=record.model_dump_json())
    return True


def upgrade(
    content: bytes | str, where: str, ask: Ask = nobody
) -> Record | CertificateRecord | None:
    """Bring a record into the form of this version; None where it has that form.

    ``where`` names it in errors.

    Raises:
        RecordError: it does not agree with itself, or is of a version that nobody knows.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} is no JSON: {error}.") from error
    outcomes = value.get("outcomes") if isinstance(value, dict) else None
    if not isinstance(outcomes, dict):
        raise RecordError(f"{where} is no record.")
    kind: type[Record] | type[CertificateRecord] = (
        CertificateRecord if "margins" in outcomes else Record
    )
    old = type(value.get("schema_version")) is int and value["schema_version"] == 1
    if old:
        content = _seal_anew(value, kind, where)
    record = _parse(content, kind, where)
    behaviour = ask(record.identity) if record.behaviour is None else None
    if behaviour is not None:
        return record.model_copy(update={"behaviour": behaviour}).sealed()
    return record if old else None


def _seal_anew(
    value: dict[str, Any], kind: type[Record] | type[CertificateRecord], where: str
) -> str:
    """Seal the text of a record of version 1 as one of version 2.

    It is checked when it is parsed, as any record is.
    """
    for name in ("seal", "behaviour"):
        if name in value:
            raise RecordError(
                f"{where} is of schema version 1 and has the field {name}, which that version had "
                "not."
            )
    text = json.dumps(value | {"schema_version": SCHEMA_VERSION, "behaviour": None})
    check_versions(text, where)
    try:
        return kind.model_validate_json(text).sealed().model_dump_json()
    except ValueError:
        return text  # whoever parses it says what is wrong


def _parse(
    content: bytes | str, kind: type[Record] | type[CertificateRecord], where: str
) -> Record | CertificateRecord:
    """Parse and check a record of that kind."""
    if kind is CertificateRecord:
        return parse_certificate(content, where).record
    return parse_record(content, where).record
