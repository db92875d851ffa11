"""A cell: one model under one attack and one threat model on fixed samples, with a verdict for each
sample.

The key of a cell is the hash of everything that decides its outcome; the digest also covers the
outcome. Both leave out provenance (when, where, how long), so the same measurement has the same
digest on any machine and after any resume. The seal covers all of a file: what a reader is shown is
what was written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.files.reading import MAX_INDEX, MAX_SAMPLES, RECORD_BYTES, Form, read_bytes
from robustbench_lite.files.text import parse_model
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.files import write_text
from robustbench_lite.records.outcomes import CellArrays, Margins, Outcomes, Summary
from robustbench_lite.records.schema import Sparse, Strict
from robustbench_lite.records.seal import (
    PROTOCOL_VERSION,
    SCHEMA_VERSION,
    check_versions,
    refuse_false,
    seal_of,
    sha256_of,
)
from robustbench_lite.records.statistics import agree
from robustbench_lite.registry import parse_number

RECORD = Form(
    noun="record",
    what="a record that cannot be read",
    most=RECORD_BYTES,
    error=RecordError,
    fix="Delete the file (or run with --fresh) and measure the cell again.",
    missing="Name the file, or the folder that it is in with --output.",
)


class ModelId(Strict):
    name: str
    weights_sha256: str
    architecture_sha256: str


class PluginId(Sparse):
    """An attack or a defense: registered name (or import path), version, all hyper-parameters."""

    name: str
    version: int
    parameters: dict[str, Any]
    parts: list[PluginId] | None = None
    """Of a composition, from the inside out."""

    def label(self) -> str:
        """``pgd steps=40 ...`` as a user could type it."""
        if self.parts is not None:
            return " + ".join(part.label() for part in self.parts)
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items())])


class ThreatId(Strict):
    norm: str
    eps: float | None = Field(allow_inf_nan=False)
    eps_written: str | None
    goal: str

    @property
    def radius(self) -> str | None:
        """``eps`` as it was written, or as a number is; None where any distance counts."""
        return None if self.eps is None else self.eps_written or f"{self.eps:g}"

    @property
    def is_as_written(self) -> bool:
        """``eps_written``, where it is there, says what ``eps`` is."""
        if self.eps_written is None:
            return True
        if self.eps is None or self.eps_written.lower() == "none":
            return self.eps is None and self.eps_written.lower() == "none"
        try:
            return parse_number(self.eps_written) == self.eps
        except UsageError:
            return False


class DataId(Strict):
    name: str
    split: str
    fingerprint: str
    id_ranges: list[tuple[int, int]]
    """Data-set indices of the samples, in order, as half-open ranges."""

    @property
    def count(self) -> int:
        """How many samples there are; -1 for ranges that are none. Makes no list of them."""
        count = sum(high - low for low, high in self.id_ranges)
        return (
            count
            if count <= MAX_SAMPLES
            and all(0 <= low < high <= MAX_INDEX for low, high in self.id_ranges)
            else -1
        )

    def ids(self) -> NDArray[np.int64]:
        """(N,) data-set indices."""
        parts = [np.arange(low, high, dtype=np.int64) for low, high in self.id_ranges]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def ranges(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Consecutive runs of ``ids`` as half-open ranges, in order.

    >>> ranges(np.array([0, 1, 2, 7, 8, 5]))
    [(0, 3), (7, 9), (5, 6)]
    """
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(ids, cuts)]


class Identity(Sparse):
    """Exactly what decides a cell's outcome."""

    protocol_version: int = PROTOCOL_VERSION
    model: ModelId
    defense: PluginId
    attack: PluginId
    threat: ThreatId
    data: DataId
    seed: int
    query_budget: int | None = None
    fit_data: DataId | None = None
    """The images that a universal attack was fitted on."""

    certifier: PluginId | None = None
    """What samples were certified with before the attack, which leaves most of those alone."""
    adaptive: Literal[False] | None = None
    """False for an attacker that ignores what the model declares (``Traits``); left out otherwise.
    """

    def key(self) -> str:
        """32 hex digits; how eps was written does not matter, its value does."""
        return sha256_of(self.model_dump(mode="json", exclude={"threat": {"eps_written"}}))[:32]


class Provenance(Sparse):
    """When, where and how a cell was measured; no part of key or digest."""

    created: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    device: str
    batch_size: int
    command: str
    versions: dict[str, str]
    partial: bool
    flags: list[str] = Field(default_factory=list)
    paths: list[str] | None = None
    """Which quicker ways the search took through the network; left out where it took none."""
    numerics: dict[str, str] | None = None
    """On an accelerator the settings and libraries that its numbers depend on
    (``numerics.settings_of``); left out on a CPU.
    """


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
    """What a reader must know of a cell and can tell from its identity and outcomes alone: no
    record goes without these.
    """
    flags = []
    if identity.adaptive is False:
        flags.append(
            "not adaptive: the attacker takes one gradient of the module as it is and knows of no "
            "detector; the judge does"
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
    return {
        "key": record.key == identity.key(),
        "digest": record.digest == _digest(identity, record.outcomes),
        "summary": agree(record.summary.model_dump(), arrays.summary().model_dump()),
        "broken samples": not (arrays.broken & ~arrays.clean_correct).any(),
        "eps as written": identity.threat.is_as_written,
        "flags": set(flags) <= set(record.provenance.flags),
        "seal": record.seal == record.sealed().seal,
        "certified samples": certified is None or not (certified & ~arrays.robust).any(),
    }


def _digest(identity: Identity, outcomes: Outcomes) -> str:
    return sha256_of({"key": identity.key(), "outcomes": outcomes.model_dump(mode="json")})
