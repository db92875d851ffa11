"""What was found, on disk: cells, certificates, and the journal that survives a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.records.cell import Record as Record
    from robustbench_lite.records.cell import read_record as read_record
    from robustbench_lite.records.cell import write_record as write_record
    from robustbench_lite.records.certificate import CertificateArrays as CertificateArrays
    from robustbench_lite.records.certificate import CertificateRecord as CertificateRecord
    from robustbench_lite.records.certificate import read_certificate as read_certificate
    from robustbench_lite.records.certificate import write_certificate as write_certificate
    from robustbench_lite.records.identity import Identity as Identity
    from robustbench_lite.records.journal import Journal as Journal
    from robustbench_lite.records.journal import open_journal as open_journal
    from robustbench_lite.records.outcomes import CellArrays as CellArrays

_HOMES = {
    "CellArrays": "records.outcomes",
    "CertificateArrays": "records.certificate",
    "CertificateRecord": "records.certificate",
    "Identity": "records.identity",
    "Journal": "records.journal",
    "Record": "records.cell",
    "open_journal": "records.journal",
    "read_certificate": "records.certificate",
    "read_record": "records.cell",
    "write_certificate": "records.certificate",
    "write_record": "records.cell",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
