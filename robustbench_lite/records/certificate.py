"""A certificate on file: which samples are proved robust, and by which method.

It is of one threat, and sealed as a cell is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import RECORD_BYTES, Form, read_bytes
from robustbench_lite.files.text import parse_model
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.encoding import (
    pack_bits,
    pack_numbers,
    unpack_bits,
    unpack_floats,
    unpack_ints,
)
from robustbench_lite.records.files import write_text
from robustbench_lite.records.identity import DataId, ModelId, PluginId, ThreatId
from robustbench_lite.records.provenance import Provenance
from robustbench_lite.records.schema import Strict
from robustbench_lite.records.seal import (
    PROTOCOL_VERSION,
    SCHEMA_VERSION,
    check_versions,
    refuse_false,
    seal_of,
    sha256_of,
)
from robustbench_lite.records.statistics import WilsonInterval, agree, wilson

CERTIFICATE = Form(
    noun="certificate",
    what="a certificate that cannot be read",
    most=RECORD_BYTES,
    error=RecordError,
    fix="Delete the file (or run with --fresh) and certify again.",
)


class CertificateIdentity(Strict):
    """Exactly what decides a certificate."""

    protocol_version: int = PROTOCOL_VERSION
    model: ModelId
    defense: PluginId
    certifier: PluginId
    threat: ThreatId
    data: DataId

    def key(self) -> str:
        """32 hex digits."""
        return sha256_of(
            {"certificate": self.model_dump(mode="json", exclude={"threat": {"eps_written"}})}
        )[:32]


class CertificateOutcomes(Strict):
    """One entry a sample, in the order of the ids."""

    clean_correct: str
    certified: str
    margins: str
    """float32; -inf where the clean image is wrong. Not in the digest: its last bits may differ
    between machines.
    """
    stages: list[str]
    stage: str
    """int32, an index into ``stages``; -1 where nothing was tried."""


class CertificateSummary(Strict):
    n: int
    clean_accuracy: float
    certified_accuracy: float
    certified_interval: tuple[float, float]


class CertificateRecord(Strict):
    """The JSON file of a finished certificate."""

    schema_version: int = SCHEMA_VERSION
    key: str
    digest: str
    summary: CertificateSummary
    identity: CertificateIdentity
    outcomes: CertificateOutcomes
    provenance: Provenance
    behaviour: Behaviour | None
    """What the network answered; None where nobody asked it. No part of key or digest."""
    seal: str = ""

    def sealed(self) -> CertificateRecord:
        """The same with the seal that belongs to it."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


class CertificateArrays(NamedTuple):
    """The outcomes as arrays of N samples."""

    clean_correct: NDArray[np.bool_]
    certified: NDArray[np.bool_]
    margins: NDArray[np.float32]
    stage: tuple[str, ...]
    """What the margin came from; empty where nothing was tried."""

    @property
    def certified_accuracy(self) -> float:
        return float(self.certified.mean())

    @property
    def interval(self) -> WilsonInterval:
        """The 95 % Wilson interval of the certified accuracy."""
        return wilson(int(self.certified.sum()), len(self.certified))

    def summary(self) -> CertificateSummary:
        return CertificateSummary(
            n=len(self.certified),
            clean_accuracy=float(self.clean_correct.mean()),
            certified_accuracy=self.certified_accuracy,
            certified_interval=self.interval,
        )


def make_certificate(
    identity: CertificateIdentity,
    arrays: CertificateArrays,
    provenance: Provenance,
    behaviour: Behaviour | None = None,
) -> CertificateRecord:
    """Join identity and outcomes by the digest, and seal the whole."""
    stages = sorted({name for name in arrays.stage if name})
    numbers = np.array(
        [stages.index(name) if name else -1 for name in arrays.stage], dtype=np.int32
    )
    outcomes = CertificateOutcomes(
        clean_correct=pack_bits(arrays.clean_correct),
        certified=pack_bits(arrays.certified),
        margins=pack_numbers(arrays.margins),
        stages=stages,
        stage=pack_numbers(numbers),
    )
    return CertificateRecord(
        key=identity.key(),
        digest=_digest(identity, outcomes),
        summary=arrays.summary(),
        identity=identity,
        outcomes=outcomes,
        provenance=provenance,
        behaviour=behaviour,
    ).sealed()


def write_certificate(record: CertificateRecord, path: Path) -> None:
    """Write ``path`` whole or not at all."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


class ReadCertificate(NamedTuple):
    """A certificate that agrees with itself, and its outcomes as arrays."""

    record: CertificateRecord
    arrays: CertificateArrays


def read_certificate(path: Path) -> ReadCertificate:
    """Read and check a certificate.

    Raises:
        RecordError: its versions, seal, key, digest, summary or eps do not agree, or it certifies
            what is not classified correctly.
    """
    return parse_certificate(read_bytes(path, CERTIFICATE), str(path))


def parse_certificate(content: bytes | str, path: str) -> ReadCertificate:
    """:func:`read_certificate` for the content of a file; ``path`` names it in errors."""
    advice = CERTIFICATE.fix
    check_versions(content, f"The certificate {path}")
    record = parse_model(content, path, CERTIFICATE, CertificateRecord)
    try:
        arrays = _unpack(record)
        if record.behaviour is not None:
            record.behaviour.array()
    except (RecordError, IndexError) as error:
        raise RecordError(f"The certificate {path} is damaged: {error} {advice}") from error
    refuse_false(_claims(record, arrays), f"The certificate {path}", advice)
    return ReadCertificate(record, arrays)


def _claims(record: CertificateRecord, arrays: CertificateArrays) -> dict[str, bool]:
    """What a certificate says of itself -> whether it holds."""
    return {
        "key": record.key == record.identity.key(),
        "digest": record.digest == _digest(record.identity, record.outcomes),
        "summary": agree(record.summary.model_dump(), arrays.summary().model_dump()),
        "eps as written": record.identity.threat.is_as_written,
        "seal": record.seal == record.sealed().seal,
        "certified samples": not (arrays.certified & ~arrays.clean_correct).any(),
        "margins": bool((arrays.margins[arrays.certified] > 0).all()),
    }


def _unpack(record: CertificateRecord) -> CertificateArrays:
    n = record.identity.data.count
    outcomes = record.outcomes
    stage = unpack_ints(outcomes.stage, n).tolist()
    return CertificateArrays(
        unpack_bits(outcomes.clean_correct, n),
        unpack_bits(outcomes.certified, n),
        unpack_floats(outcomes.margins, n),
        tuple(outcomes.stages[i] if i >= 0 else "" for i in stage),
    )


def _digest(identity: CertificateIdentity, outcomes: CertificateOutcomes) -> str:
    return sha256_of(
        {
            "key": identity.key(),
            "clean_correct": outcomes.clean_correct,
            "certified": outcomes.certified,
        }
    )
