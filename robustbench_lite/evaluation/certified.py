"""The certified side: which samples are proved robust.

Proofs are written down as they come, and an earlier run is continued where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.evaluation.claim import Claim, deploy
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.devices import pick_batch_size, pick_device
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.devices import name_of
from robustbench_lite.machine.numerics import exactly, settings_of
from robustbench_lite.progress import Progress, Teller
from robustbench_lite.records.behaviour import ANEW, anew, objection
from robustbench_lite.records.certificate import (
    CertificateArrays,
    CertificateRecord,
    make_certificate,
    read_certificate,
    write_certificate,
)
from robustbench_lite.records.files import require_writable, set_aside
from robustbench_lite.records.journal import Journal, open_journal
from robustbench_lite.records.provenance import make_provenance
from robustbench_lite.records.samples import Proof
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Proved:
    """What came of a claim."""

    arrays: CertificateArrays
    tried: int
    """Correctly classified samples that were worked on before the time was up."""
    of: int
    seconds: float
    record: CertificateRecord | None = None
    """Sealed once every sample was tried."""
    path: Path | None = None
    cached: bool = False
    note: str | None = None
    """What became of an earlier certificate under the same key that is of another network."""

    @property
    def certified(self) -> Tensor:
        """(N,) bool."""
        return torch.from_numpy(self.arrays.certified)


def prove(
    claim: Claim,
    journal: Journal,
    folder: Path | None,
    *,
    fresh: bool = False,
    seconds: float | None = None,
    on_rows: Callable[[float], None] = lambda rows: None,
) -> Proved:
    """Certify what is missing of ``claim``.

    Args:
        claim: what is to be proved.
        journal: holds what earlier runs have proved, and gets what this one proves.
        folder: where the finished certificate lies, for a later call to find; that of another
            network moves to ``replaced``.
        fresh: prove again what is recorded.
        seconds: stop once this much time is spent.
        on_rows: hears how many samples are done.
    """
    key = claim.identity.key()
    path = None if folder is None else folder / "certificates" / f"{key}.json"
    kept = None if fresh or path is None or not path.exists() else read_certificate(path)
    other = None if kept is None else objection(kept[0].behaviour, claim.behaviour)
    of = int(claim.correct.sum())
    if kept is not None and other is None:
        record, arrays = kept
        on_rows(len(claim.data))
        return Proved(arrays, of, of, record.provenance.seconds, record, path, cached=True)
    if fresh:
        journal.forget(key)
    unfinished = ANEW if journal.begin(key, claim.behaviour) else None
    note = anew(other, folder) or unfinished
    known = _work(claim, journal, seconds, on_rows)
    arrays = _arrays(claim, known)
    spent = journal.seconds(key)
    if len(known) < of:
        return Proved(arrays, len(known), of, spent, note=note)
    record = _certificate(claim, arrays, spent)
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        if kept is not None:
            set_aside(path, kept[0].digest)
        write_certificate(record, path)
        journal.forget(key)
    return Proved(arrays, of, of, spent, record, path, note=note)


def _certificate(claim: Claim, arrays: CertificateArrays, seconds: float) -> CertificateRecord:
    """Seal what was proved of every sample."""
    made = make_provenance(
        seconds=seconds,
        device=name_of(claim.device),
        batch_size=0,
        partial=claim.data.partial,
        numerics=settings_of(claim.device),
    )
    return make_certificate(claim.identity, arrays, made, claim.behaviour)


def _work(
    claim: Claim, journal: Journal, seconds: float | None, on_rows: Callable[[float], None]
) -> dict[int, Proof]:
    """Prove what is missing, and return the proofs of earlier runs and of this one by position."""
    key = claim.identity.key()
    known = {proof.position: proof for proof in journal.proofs(key, len(claim.data))}
    missing = claim.correct.clone()
    missing[torch.tensor(list(known), dtype=torch.int64)] = False
    positions = missing.nonzero().squeeze(1)
    wrong = int((~claim.correct).sum())
    on_rows(wrong + len(known))
    if not len(positions):
        return known
    x = claim.data.x[positions].to(claim.device)
    y = claim.data.y[positions].to(claim.device)
    started = now = time.perf_counter()
    rows = iter(positions.tolist())
    for part in claim.certifier.prove(claim.model, x, y, claim.threat):
        found = zip(part.margins.tolist(), part.stage, strict=True)
        proofs = [Proof(next(rows), margin, stage) for margin, stage in found]
        before = now
        now = time.perf_counter()
        journal.add_proofs(key, proofs, now - before)
        known |= {proof.position: proof for proof in proofs}
        on_rows(wrong + len(known))
        if seconds is not None and now - started > seconds:
            break
    return known


def _arrays(claim: Claim, known: dict[int, Proof]) -> CertificateArrays:
    """One entry a sample; those that nothing is known of have the margin -inf, and no stage."""
    n = len(claim.data)
    margins = np.full(n, -np.inf)
    stage = [""] * n
    for position, proof in known.items():
        margins[position] = proof.margin
        stage[position] = proof.stage
    return CertificateArrays(
        claim.correct.numpy(), margins > 0, margins.astype(np.float32), tuple(stage)
    )


@exactly
def certify_all(
    subjects: Sequence[Subject],
    data: Dataset,
    threat: ThreatModel,
    certifier: Certifier,
    *,
    output: Path | None = None,
    device: str = "auto",
    fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Proved]:
    """Certify every subject, or read its certificate where there is one.

    Args:
        subjects: the networks, each with its defense.
        data: the samples.
        threat: the ball.
        certifier: what is to prove it; it is asked of every network before the first is certified.
        output: folder for a journal and the records; None writes nothing.
        device: as ``evaluate`` takes it.
        fresh: certify again what is recorded.
        on_progress: hears how far it is.
    """
    where = pick_device(device)
    if output is not None:
        require_writable(output, 5_000_000)
    batch_size = pick_batch_size("auto", data, where)
    for subject in subjects:
        certifier.check(deploy(subject), tuple(data.x.shape[1:]))
    models = [prepare(subject.module, subject.defense, where) for subject in subjects]
    models = [diagnose(model, data.x, data.y, data.classes) for model in models]
    found = []
    with open_journal(None if output is None else output / "journal.sqlite") as journal:
        for number, (subject, model) in enumerate(zip(subjects, models, strict=True)):
            label = f"{subject.label}: {certifier.name}"
            tell = Teller(on_progress, number, len(subjects), len(data), label)
            correct = clean_logits(model, data, batch_size, where, 0).correct
            behaviour = ask(model, data, where)
            claim = Claim.of(subject, certifier, threat, data, correct, where, behaviour)
            found.append(prove(claim, journal, output, fresh=fresh, on_rows=tell.rows))
    return found
