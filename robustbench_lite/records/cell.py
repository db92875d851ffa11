"""A cell: one model under one attack, with a verdict for each sample.

It is of one threat model and of fixed samples.

The key of a cell is the hash of everything that decides its outcome; the digest also covers the
outcome. Both leave out provenance (when, where, how long), so the same measurement has the same
digest on any machine and after any resume. The seal covers all of a file: what a reader is shown is
what was written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import RECORD_BYTES, Form, read_bytes
from robustbench_lite.files.text import parse_model
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.files import write_text
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.outcomes import CellArrays, Margins, Outcomes, Summary
from robustbench_lite.records.provenance import Provenance
from robustbench_lite.records.schema import Sparse
from robustbench_lite.records.seal import (
    SCHEMA_VERSION,
    check_versions,
    refuse_false,
    seal_of,
    sha256_of,
)
from robustbench_lite.records.statistics import agree

RECORD = Form(
    noun="record",
    what="a record that cannot be read",
    most=RECORD_BYTES,
    error=RecordError,
    fix="Delete the file (or run with --fresh) and measure the cell again.",
    missing="Name the file, or the folder that it is in with --output.",
)


class Record(Sparse):
    """The JSON file of a finished cell."""

    schema_version: int = SCHEMA_VERSION
    key: str
    digest: str
    summary: Summary
    identity: Identity
    outcomes: Outcomes
    provenance: Provenance
    behaviour: Behaviour | None
    """What the network answered; None where nobody asked it. No part of key or digest."""
    margins: Margins | None = None
    """How near to a tie its verdicts came. No part of key or digest: the last digits differ between
    machines.
    """
    seal: str = ""

    def sealed(self) -> Record:
        """The same with the seal that belongs to it."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


def make_record(
    identity: Identity,
    arrays: CellArrays,
    provenance: Provenance,
    behaviour: Behaviour | None = None,
    margins: Margins | None = None,
) -> Record:
    """Join identity and outcomes by the digest, and seal the whole."""
    outcomes = arrays.pack()
    return Record(
        key=identity.key(),
        digest=_digest(identity, outcomes),
        summary=arrays.summary(),
        identity=identity,
        outcomes=outcomes,
        provenance=provenance,
        behaviour=behaviour,
        margins=margins,
    ).sealed()


def derived_flags(identity: Identity, unconfirmed: int) -> list[str]:
    """Say what a reader must know of a cell and can tell from identity and outcomes alone.

    No record goes without these.
    """
    flags = []
    if identity.adaptive is False:
        flags.append(
            "not adaptive: the attacker takes one gradient of the module as it is and knows of no "
            "detector; the judge does"
        )
    if identity.attack.inconclusive:
        flags.append(
            f"{identity.attack.name} stops early: what it leaves was not attacked further, so the "
            "robust accuracy is at most this"
        )
    if unconfirmed:
        what = (
            "1 success of the search did"
            if unconfirmed == 1
            else f"{unconfirmed:,} successes of the search did"
        )
        flags.append(
            f"{what} not hold before the judge and count{'s' * (unconfirmed == 1)} as robust"
        )
    return flags


def write_record(record: Record, path: Path) -> None:
    """Write ``path`` whole or not at all."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


class ReadRecord(NamedTuple):
    """A record that agrees with itself, and its outcomes as arrays."""

    record: Record
    arrays: CellArrays


def read_record(path: Path) -> ReadRecord:
    """Read and check a record.

    Raises:
        RecordError: its versions, seal, key, digest, summary, flags or eps do not agree.
    """
    return parse_record(read_bytes(path, RECORD), str(path))


def parse_record(content: bytes | str, where: str) -> ReadRecord:
    """:func:`read_record` for a record that is no file of its own; ``where`` names it in errors."""
    check_versions(content, f"The record {where}")
    record = parse_model(content, where, RECORD, Record)
    try:
        arrays = CellArrays.unpack(record.outcomes, record.identity.data.count)
        if record.behaviour is not None:
            record.behaviour.array()
    except RecordError as error:
        raise RecordError(f"The record {where} is damaged: {error} {RECORD.fix}") from error
    refuse_false(_claims(record, arrays), f"The record {where}", RECORD.fix)
    return ReadRecord(record, arrays)


def _claims(record: Record, arrays: CellArrays) -> dict[str, bool]:
    """What a record says of itself -> whether it holds."""
    identity = record.identity
    flags = derived_flags(identity, arrays.unconfirmed)
    certified = arrays.certified
    planned = identity.attack.stages
    return {
        "key": record.key == identity.key(),
        "digest": record.digest == _digest(identity, record.outcomes),
        "summary": agree(record.summary.model_dump(), arrays.summary().model_dump()),
        "broken samples": not (arrays.broken & ~arrays.clean_correct).any(),
        "eps as written": identity.threat.is_as_written,
        "flags": set(flags) <= set(record.provenance.flags),
        "seal": record.seal == record.sealed().seal,
        "stages": arrays.stages_agree(None if planned is None else len(planned)),
        "certified samples": certified is None or not (certified & ~arrays.robust).any(),
    }


def _digest(identity: Identity, outcomes: Outcomes) -> str:
    return sha256_of({"key": identity.key(), "outcomes": outcomes.model_dump(mode="json")})
