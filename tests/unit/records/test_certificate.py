"""Certificates on file: what the digest covers, and what a forgery that is sealed anew is still
refused for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.certificate import (
    CertificateArrays,
    CertificateIdentity,
    CertificateRecord,
    make_certificate,
    read_certificate,
    write_certificate,
)
from robustbench_lite.records.identity import DataId, ModelId, PluginId, ThreatId
from robustbench_lite.records.provenance import make_provenance

RIGHT = np.array([True, True, True, True, False])
PROVED = np.array([True, True, False, False, False])


def identity(**changes: object) -> CertificateIdentity:
    values = {
        "model": ModelId(name="net", weights_sha256="a" * 64, architecture_sha256="b" * 64),
        "defense": PluginId(name="none", version=1, parameters={}),
        "certifier": PluginId(name="dual", version=1, parameters={"box": True}),
        "threat": ThreatId(norm="linf", eps=0.1, eps_written="0.1", goal="untargeted"),
        "data": DataId(name="data", split="test", fingerprint="c" * 64, id_ranges=[(0, 5)]),
    }
    return CertificateIdentity.model_validate(values | changes)


def certificate(
    right: np.ndarray = RIGHT,
    proved: np.ndarray = PROVED,
    margins: np.ndarray | None = None,
    **changes: object,
) -> CertificateRecord:
    given = (
        np.where(proved, 1, -1).astype(np.float32)
        if margins is None
        else margins.astype(np.float32)
    )
    arrays = CertificateArrays(right, proved, given, ("dual",) * 4 + ("",))
    return make_certificate(
        identity(**changes),
        arrays,
        make_provenance(seconds=1, device="cpu", batch_size=0, partial=False),
    )


def test_a_certificate_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_certificate(certificate(), tmp_path / "a.json")
    record, arrays = read_certificate(tmp_path / "a.json")
    assert record == certificate()
    assert arrays.certified.tolist() == PROVED.tolist()
    assert record.summary.certified_accuracy == pytest.approx(0.4)


def test_the_digest_is_of_what_is_certified_and_right_not_of_the_last_bits_of_margins() -> None:
    whole = certificate().digest
    for proved in (np.roll(PROVED, 1), PROVED & False, RIGHT):
        assert certificate(proved=proved).digest != whole
    assert certificate(right=RIGHT | True).digest != whole
    assert certificate(margins=np.where(PROVED, 2, -1)).digest == whole


@pytest.mark.parametrize(
    "change",
    [
        {"threat": ThreatId(norm="linf", eps=0.2, eps_written=None, goal="untargeted")},
        {"certifier": PluginId(name="crown", version=1, parameters={"box": True})},
        {"certifier": PluginId(name="dual", version=2, parameters={"box": True})},
        {"defense": PluginId(name="parseval", version=1, parameters={})},
        {"data": DataId(name="data", split="test", fingerprint="d" * 64, id_ranges=[(0, 5)])},
        {"model": ModelId(name="net", weights_sha256="e" * 64, architecture_sha256="b" * 64)},
    ],
)
def test_everything_that_decides_a_certificate_changes_key_and_digest(
    change: dict[str, Any],
) -> None:
    assert certificate(**change).key != certificate().key
    assert certificate(**change).digest != certificate().digest


@pytest.mark.parametrize(
    ("forged", "what"),
    [
        (certificate(proved=np.array([True, True, False, False, True])), "certified samples"),
        (certificate(margins=np.array([1, 0, -1, -1, -1])), "margins"),
        (
            certificate(
                threat=ThreatId(norm="linf", eps=0.1, eps_written="0.01", goal="untargeted")
            ),
            "eps as written",
        ),
        (certificate().model_copy(update={"digest": "0" * 64}).sealed(), "digest"),
        (certificate().model_copy(update={"key": "0" * 32}).sealed(), "key"),
        (
            certificate()
            .model_copy(update={"summary": certificate(proved=RIGHT).summary})
            .sealed(),
            "summary",
        ),
        (
            certificate()
            .model_copy(update={"outcomes": certificate(proved=RIGHT).outcomes})
            .sealed(),
            "digest",
        ),
        (certificate().model_copy(update={"seal": "0" * 64}), "seal"),
    ],
)
def test_a_forgery_is_refused_for_what_does_not_agree_however_it_is_sealed(
    tmp_path: Path, forged: CertificateRecord, what: str
) -> None:
    write_certificate(forged, tmp_path / "a.json")
    with pytest.raises(RecordError, match=f"its {what} does not agree"):
        read_certificate(tmp_path / "a.json")
