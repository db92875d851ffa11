"""The results of a board in the schema of this version, with what the networks at hand answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from robustbench_lite.errors import RecordError, RobustBenchError
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.examples import migrate_examples
from robustbench_lite.leaderboard.measure.bench import Bench, Means
from robustbench_lite.leaderboard.results import CELLS, CERTIFICATES, FITS, GALLERY, Found
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.certificate import (
    CertificateIdentity,
    read_certificate,
    write_certificate,
)
from robustbench_lite.records.fit import attribute
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.migration import Migrated
from robustbench_lite.records.migration import migrate as migrate_files
from robustbench_lite.threat import ThreatModel


def migrate(board: Board, root: Path, means: Means) -> Iterator[Migrated]:
    """Migrate cells and certificates first, then fits and examples.

    A file is written in one step.
    """
    bench = Bench(board, root, means)

    def ask(identity: Identity | CertificateIdentity) -> Behaviour:
        row = bench.row_of(identity.model, identity.defense)
        if row is None:
            raise RecordError(
                f"no row of the board has its network at hand ({identity.model.name})"
            )
        if not bench.has_images_of(identity.data):
            raise RecordError(
                f"the {identity.data.name} images that it was measured on are not here: name them "
                "with --data-dir"
            )
        return bench.answers(row, identity.data.ids())

    files = [
        path
        for folder in (CELLS, CERTIFICATES)
        for path in sorted((bench.folder / folder).glob("*.json"))
    ]
    radii = [(one.norm, one.eps) for one in board.threats] + [
        (one.norm, eps) for one in board.curves for eps in one.eps
    ]
    threats = [ThreatModel.parse(norm, eps) for norm, eps in radii]
    written = {(threat.norm.name, threat.eps): threat.written for threat in threats}
    for one in migrate_files(files, ask):
        says = (
            one.state != "refused"
            and one.path.parent.name == CERTIFICATES
            and _say_radius(one.path, written)
        )
        yield one._replace(state="migrated") if says else one
    for folder in (FITS, GALLERY):
        for path in sorted((bench.folder / folder).glob("*")):
            try:
                changed = _beside(path, bench.folder / CELLS / f"{path.stem}.json")
            except RobustBenchError as error:
                yield Migrated(path, "refused", str(error))
            else:
                yield Migrated(path, "migrated" if changed else "current")


def _say_radius(path: Path, written: Mapping[tuple[str, float | None], str | None]) -> bool:
    """Give a certificate that lacks it its radius as the board writes it.

    Key and digest stay.

    Returns:
        Whether it was written.
    """
    record, _ = read_certificate(path)
    threat = record.identity.threat
    text = written.get((threat.norm, threat.eps))
    if threat.eps_written is not None or text is None:
        return False
    said = record.identity.model_copy(
        update={"threat": threat.model_copy(update={"eps_written": text})}
    )
    write_certificate(record.model_copy(update={"identity": said}).sealed(), path)
    return True


def _beside(path: Path, cell: Path) -> bool:
    """Migrate what belongs to the record ``cell``; True if it was written."""
    found = Found.read(cell)
    if path.suffix == ".json":
        return migrate_examples(path, found)
    behaviour = found.record.behaviour
    if behaviour is None:
        raise RecordError("its record does not say what the network answers")
    return attribute(path, found.record.key, behaviour)
