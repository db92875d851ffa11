"""What ``rbl show`` says of a record or a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.errors import RobustBenchError
from robustbench_lite.files.text import printable, read_json
from robustbench_lite.leaderboard.words import (
    MISSING,
    at_most,
    queries_in_full,
    radius_in_full,
    share_in_full,
    stage,
)

if TYPE_CHECKING:
    from robustbench_lite.records.cell import Record
    from robustbench_lite.records.certificate import CertificateIdentity
    from robustbench_lite.records.identity import DataId, Identity, ThreatId
    from robustbench_lite.records.outcomes import Margins
    from robustbench_lite.records.provenance import Provenance

Rows = list[tuple[str, object]]
"""Lines with what they are about."""
_EMPTY = ("", "")
_AGREE = "version, seal, key, digest and summary agree"


def show_file(path: Path) -> None:
    """Print everything about a record or a certificate."""
    print_rows(_of_certificate(path) if _is_certificate(path) else _of_record(path))


def _is_certificate(path: Path) -> bool:
    from robustbench_lite.records.certificate import CERTIFICATE

    try:
        content = read_json(path, CERTIFICATE)
    except RobustBenchError:
        return False  # said when it is read as a record
    outcomes = content.get("outcomes") if isinstance(content, dict) else None
    return isinstance(outcomes, dict) and "margins" in outcomes


def _of_record(path: Path) -> Rows:
    from robustbench_lite.records.cell import read_record

    record, arrays = read_record(path)
    identity = record.identity
    made = record.provenance
    summary = record.summary
    median = arrays.median_distance
    robust = share_in_full(summary.robust_accuracy, summary.robust_interval)
    certified = share_in_full(summary.certified_accuracy, summary.certified_interval)
    return [
        ("record", f"{path} ({_AGREE})"),
        ("key", record.key),
        ("digest", record.digest),
        _EMPTY,
        ("n", _count(summary.n, made)),
        ("clean accuracy", f"{summary.clean_accuracy:.2%}"),
        ("robust accuracy", at_most(robust, identity.attack)),
        ("certified accuracy", certified),
        ("median distance", MISSING if median is None else f"{median:.4g}"),
        ("queries a sample", queries_in_full(*arrays.mean_queries())),
        *_margins(record.margins),
        _EMPTY,
        ("attack", identity.attack.label()),
        *_stages(record),
        ("certifier", identity.certifier.label() if identity.certifier else MISSING),
        *_network(identity),
        *_threat(identity.threat),
        ("goal", identity.threat.goal),
        *_data(identity.data),
        ("seed", identity.seed),
        ("query budget", identity.query_budget or MISSING),
        _EMPTY,
        *_making(made),
        ("batch size", made.batch_size),
        *_versions(made),
        *(("path", path) for path in made.paths or ()),
        *(("note", flag) for flag in made.flags),
    ]


def _stages(record: Record) -> Rows:
    """What each stage of a suite has seen, broken and cost."""
    plan = record.identity.attack.stages or []
    seconds = record.provenance.stage_seconds or []
    rows: Rows = []
    for tally, took in zip(record.outcomes.stages or (), seconds, strict=False):
        passes = f"{tally.forward:,} + {tally.backward:,} passes, {took:.1f} s"
        found = f"saw {tally.seen:,}, broke {tally.broken:,}: {passes}"
        rows.append((f"stage {tally.stage}", f"{stage(plan[tally.stage])}: {found}"))
    return rows


def _count(n: int, made: Provenance) -> str:
    return f"{n:,}{' (partial)' if made.partial else ''}"


def _network(identity: Identity | CertificateIdentity) -> Rows:
    return [
        ("defense", identity.defense.label()),
        ("model", identity.model.name),
        ("weights", identity.model.weights_sha256),
    ]


def _threat(threat: ThreatId) -> Rows:
    return [("norm", threat.norm), ("eps", radius_in_full(threat))]


def _data(data: DataId) -> Rows:
    return [("data", f"{data.name} {data.split}"), ("data fingerprint", data.fingerprint)]


def _making(made: Provenance) -> Rows:
    """When, how and where it was measured."""
    return [
        ("made", made.created),
        ("command", made.command),
        ("took", f"{made.seconds} s on {made.device}"),
    ]


def _versions(made: Provenance) -> Rows:
    """With what its numbers depend on beside these, on an accelerator."""
    rows: Rows = [("versions", _list_values(made.versions))]
    return [*rows, ("numerics", _list_values(made.numerics))] if made.numerics else rows


def _list_values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _margins(margins: Margins | None) -> Rows:
    """How near to a tie its verdicts came, where the record says so."""
    if margins is None:
        return []
    parts = (("on a clean image", margins.clean), ("before the judge", margins.judged))
    said = ", ".join(f"{value:.2g} {where}" for where, value in parts if value is not None)
    return [("smallest margin", f"{said} (of the largest logit)" if said else "-")]


def _of_certificate(path: Path) -> Rows:
    from robustbench_lite.records.certificate import read_certificate

    record, arrays = read_certificate(path)
    identity = record.identity
    made = record.provenance
    summary = record.summary
    certified = share_in_full(summary.certified_accuracy, summary.certified_interval)
    stages = {stage: arrays.stage.count(stage) for stage in sorted({*arrays.stage} - {""})}
    return [
        ("certificate", f"{path} ({_AGREE})"),
        ("key", record.key),
        ("digest", record.digest),
        _EMPTY,
        ("n", _count(summary.n, made)),
        ("clean accuracy", f"{summary.clean_accuracy:.2%}"),
        ("certified accuracy", certified),
        ("margins by", ", ".join(f"{name} {count:,}" for name, count in stages.items())),
        _EMPTY,
        ("certifier", identity.certifier.label()),
        *_network(identity),
        *_threat(identity.threat),
        *_data(identity.data),
        _EMPTY,
        *_making(made),
        *_versions(made),
    ]


def print_rows(rows: Rows) -> None:
    """Print ``rows`` as two columns."""
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {printable(str(value))}".rstrip() for name, value in rows))
