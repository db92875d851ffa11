"""The certified side: which samples are proved robust. Written down as it comes, and continued
where an earlier run stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.errors import UnsupportedLayerError, UsageError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.diagnosis import Outputs, copied, diagnose, prepare
from robustbench_lite.evaluation.inputs import Subject
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.machine.devices import device_of, name_of, proving_device
from robustbench_lite.machine.numerics import exactly, settings_of
from robustbench_lite.progress import Progress, Teller
from robustbench_lite.records.behaviour import ANEW, Behaviour, anew, objection
from robustbench_lite.records.certificate import (
    CertificateArrays,
    CertificateIdentity,
    CertificateRecord,
    make_certificate,
    read_certificate,
    write_certificate,
)
from robustbench_lite.records.files import require_writable, set_aside
from robustbench_lite.records.journal import Journal, Proof, open_journal
from robustbench_lite.records.provenance import provenance
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel

logger = logging.getLogger(__name__)

OWN = "own"
OFF = "off"
"""``own``: what the defense brings, if it brings something."""


def certifier_for(
    asked: str, subject: Subject, threat: ThreatModel, shape: tuple[int, ...]
) -> Certifier | None:
    """What samples of ``shape`` (C, H, W) are certified with: ``own``, ``off``, or a method for any
    network that it knows.

    Raises:
        UnsupportedLayerError: the method was asked for by name, and the network has a layer that it
        does not know.
    """
    if asked == OFF or (asked == OWN and threat.eps is None):
        return None
    if threat.eps is None:
        raise UsageError(
            f"A certificate ({asked}) is for a ball and needs its radius: give eps, for example "
            "--eps 0.1."
        )
    certifier = subject.defense.certifier(threat) if asked == OWN else BoundCertifier(method=asked)
    if certifier is None:
        return None
    try:
        certifier.check(deployed(subject), shape)
    except UnsupportedLayerError as error:
        if asked != OWN:
            raise
        logger.warning("%s is not certified: %s", subject.label, error)
        return None
    return certifier


def deployed(subject: Subject) -> nn.Module:
    """A copy of the network behind its defense, with the layers that its author gave it, in eval
    mode, where there is float64.

    Raises:
        UnsupportedLayerError: the defense draws at random; a bound is of one function of the image.
    """
    defended = subject.defense.wrap(copied(subject.module))
    if defended.traits.random:
        raise UnsupportedLayerError(
            f"{subject.label} draws at random, and these bounds are of one function of the image."
        )
    module = defended.module.eval()
    return module.to(proving_device(device_of(module)))


@dataclass(frozen=True)
class Claim:
    """What is to be proved: a certifier at work on one network. ``correct`` has one entry a sample
    of ``data``.
    """

    identity: CertificateIdentity
    certifier: Certifier
    model: nn.Module
    threat: ThreatModel
    data: Dataset
    correct: Tensor
    device: torch.device
    behaviour: Behaviour
    """What the network answers on probe images."""

    @classmethod
    def of(
        cls,
        subject: Subject,
        certifier: Certifier,
        threat: ThreatModel,
        data: Dataset,
        correct: Tensor,
        device: torch.device,
        behaviour: Behaviour,
        outputs: Outputs = "logits",
    ) -> Claim:
        identity = CertificateIdentity(
            model=inputs.model_id(subject, outputs),
            defense=inputs.plugin_id("defense", subject.defense),
            certifier=inputs.certifier_id(certifier),
            threat=inputs.threat_id(threat),
            data=inputs.data_id(data),
        )
        device = proving_device(device)
        return cls(
            identity,
            certifier,
            deployed(subject).to(device),
            threat,
            data,
            correct,
            device,
            behaviour,
        )


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
    """Certify what is missing of ``claim``, for up to ``seconds``.

    The finished certificate lies in ``folder``, where a later call finds it; that of another
    network moves to ``replaced``.
    """
    key = claim.identity.key()
    path = None if folder is None else folder / "certificates" / f"{key}.json"
    kept = None if fresh or path is None or not path.exists() else read_certificate(path)
    other = None if kept is None else objection(kept[0].behaviour, claim.behaviour)
    if kept is not None and other is None:
        record, arrays = kept
        on_rows(len(claim.data))
        of = int(claim.correct.sum())
        return Proved(arrays, of, of, record.provenance.seconds, record, path, cached=True)
    if fresh:
        journal.forget(key)
    unfinished = ANEW if journal.begin(key, claim.behaviour) else None
    note = anew(other, folder) or unfinished
    known = _work(claim, key, journal, seconds, on_rows)
    arrays = _arrays(claim, known)
    of = int(claim.correct.sum())
    spent = journal.seconds(key)
    if len(known) < of:
        return Proved(arrays, len(known), of, spent, note=note)
    where = name_of(claim.device)
    numerics = settings_of(claim.device)
    origin = provenance(
        seconds=spent, device=where, batch_size=0, partial=claim.data.partial, numerics=numerics
    )
    record = make_certificate(claim.identity, arrays, origin, claim.behaviour)
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        if kept is not None:
            set_aside(path, kept[0].digest)
        write_certificate(record, path)
        journal.forget(key)
    return Proved(arrays, of, of, spent, record, path, note=note)


def _work(
    claim: Claim,
    key: str,
    journal: Journal,
    seconds: float | None,
    on_rows: Callable[[float], None],
) -> dict[int, Proof]:
    """The proofs of earlier runs and of this one, by position."""
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
        proofs = [
            Proof(next(rows), m, s) for m, s in zip(part.margins.tolist(), part.stage, strict=True)
        ]
        spent = now
        now = time.perf_counter()
        journal.add_proofs(key, proofs, now - spent)
        known |= {proof.position: proof for proof in proofs}
        on_rows(wrong + len(known))
        if seconds is not None and now - started > seconds:
            break
    return known


def _arrays(claim: Claim, known: dict[int, Proof]) -> CertificateArrays:
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
    """The certificate of every subject, from its record where there is one."""
    where = inputs.pick_device(device)
    if output is not None:
        require_writable(output, 5_000_000)
    batch_size = inputs.pick_batch_size("auto", data, where)
    for subject in subjects:
        certifier.check(deployed(subject), tuple(data.x.shape[1:]))
    models = [
        diagnose(prepare(s.module, s.defense, where), data.x, data.y, data.classes)
        for s in subjects
    ]
    found = []
    with open_journal(None if output is None else output / "journal.sqlite") as journal:
        for number, (subject, model) in enumerate(zip(subjects, models, strict=True)):
            tell = Teller(
                on_progress, number, len(subjects), len(data), f"{subject.label}: {certifier.name}"
            )
            correct = clean_logits(model, data, batch_size, where, 0).correct
            behaviour = ask(model, data, where)
            claim = Claim.of(subject, certifier, threat, data, correct, where, behaviour)
            found.append(prove(claim, journal, output, fresh=fresh, on_rows=tell.rows))
    return found
