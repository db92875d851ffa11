"""The cross product: every cell of a plan, resumable, each verdict confirmed by the judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from robustbench_lite.evaluation.cell import Workplace, produce_cell
from robustbench_lite.evaluation.certified import Proved, prove
from robustbench_lite.evaluation.claim import Claim
from robustbench_lite.evaluation.clean import Clean, clean_logits
from robustbench_lite.evaluation.devices import pick_batch_size, pick_device
from robustbench_lite.evaluation.job import Job, Scene, Terms
from robustbench_lite.evaluation.masking import describe_masking
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.plan import Plan, PlannedCell, PlannedSubject
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.evaluation.report import Cell, Report
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.fast.path import PROBES, with_fast_path
from robustbench_lite.progress import Teller
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.files import require_writable
from robustbench_lite.records.journal import open_journal
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

_ROOM = 20_000_000
"""Bytes that journal and records may take, without images."""


@exactly
def run(plan: Plan, settings: Settings) -> Report:
    """Measure every cell of ``plan``.

    All input and every network is checked before the first cell starts.

    Raises: as ``evaluate`` (``evaluation.api``).
    """
    plan = plan.check()
    device = pick_device(settings.device)
    folder = None if settings.output is None else Path(settings.output)
    if folder is not None:
        kept = (
            plan.data.x.numel() * 4 * len(plan.attacks) * len(plan.subjects)
            if settings.keep_adversarials
            else 0
        )
        require_writable(folder, _ROOM + kept)
    few = plan.data.x[:PROBES].to(device)
    subjects = [
        replace(planned, model=with_fast_path(planned.model, few))
        for planned in plan.prepare_all(settings, device)
    ]
    masked = [_describe_masking(planned, plan.data) for planned in subjects]
    terms = Terms(
        seed=settings.seed,
        batch_size=pick_batch_size(settings.batch_size, plan.data, device),
        device=device,
        query_budget=settings.query_budget,
        keep_adversarials=settings.keep_adversarials,
    )
    total = sum(len(planned.cells) for planned in subjects)
    cells: list[Cell] = []
    with open_journal(None if folder is None else folder / "journal.sqlite") as journal:
        at = Workplace(folder, journal, settings.fresh, settings.on_error)
        for planned, signs in zip(subjects, masked, strict=True):
            tell = Teller(
                settings.on_progress, len(cells), total, len(plan.data), planned.subject.label
            )
            line = _Line(plan, settings, planned, signs, terms, at)
            cells += line.measure(tell)
    return Report(cells)


@dataclass(frozen=True)
class _Line:
    """The cells of one subject."""

    plan: Plan
    settings: Settings
    planned: PlannedSubject
    signs: list[str]
    """That gradients are masked, where it is so."""
    terms: Terms
    at: Workplace

    def measure(self, tell: Teller) -> Iterator[Cell]:
        """Certify the subject, if it is to be, and measure it under one attack after the other."""
        model = self.planned.model
        data = self.plan.data
        terms = self.terms
        clean = clean_logits(model, data, terms.batch_size, terms.device, terms.seed)
        behaviour = ask(model, data, terms.device)
        certificate = self._certificate(clean, behaviour, tell)
        target = targets(self.plan.threat, clean.logits, data, self.terms.seed)
        certified = None if certificate is None else certificate.certified
        scene = Scene(model, self.plan.threat, data, clean, target, behaviour, certified)
        for number, cell in enumerate(self.planned.cells, tell.cell):
            label = f"{cell.subject.label} x {short_label('attack', cell.attack)}"
            job = Job(cell.identity.key(), scene, cell.attack, self.terms, cell.adaptive)
            heard = tell._replace(cell=number, label=label)
            flags = self._flags(cell, certificate)
            found = produce_cell(
                cell.subject, cell.identity, job, self.at, heard, self.plan.fit_data, flags
            )
            yield _with_note(found, certificate)

    def _certificate(self, clean: Clean, behaviour: Behaviour, tell: Teller) -> Proved | None:
        """Certify the subject, if it is to be."""
        plan = self.plan
        settings = self.settings
        certifier = self.planned.certifier
        if certifier is None:
            return None
        claim = Claim.of(
            self.planned.subject,
            certifier,
            plan.threat,
            plan.data,
            clean.correct,
            self.terms.device,
            behaviour,
            settings.outputs,
        )
        return prove(
            claim,
            self.at.journal,
            self.at.folder,
            fresh=settings.fresh,
            seconds=settings.certify_seconds,
            on_rows=partial(tell.steps, of=len(plan.data), before="certify"),
        )

    def _flags(self, cell: PlannedCell, certificate: Proved | None) -> list[str]:
        """What a reader of the cell must know of the network before trusting the number."""
        flags = [
            *self.planned.model.remarks,
            *([] if certificate is None else _describe_unfinished(certificate)),
        ]
        return flags + (self.signs if cell.adaptive and cell.by_gradients else [])


def _with_note(cell: Cell, certificate: Proved | None) -> Cell:
    """``cell`` with what is to be said of its certificate."""
    said = (
        None
        if certificate is None or certificate.note is None
        else f"the certificate was {certificate.note}"
    )
    notes = [note for note in (cell.note, said) if note is not None]
    return dataclasses.replace(cell, note="; ".join(notes) or None)


def _describe_masking(planned: PlannedSubject, data: Dataset) -> list[str]:
    """Look for masked gradients, where an attack needs some."""
    needed = any(cell.by_gradients for cell in planned.cells)
    return describe_masking(planned.model, data) if needed else []


def _describe_unfinished(certificate: Proved) -> list[str]:
    """What a reader must know of a certificate that ran out of time."""
    if certificate.tried == certificate.of:
        return []
    return [
        f"the certificate ran out of time ({certificate.seconds:.0f} s) at {certificate.tried:,} "
        f"of {certificate.of:,} samples: the others count as not certified"
    ]


def targets(threat: ThreatModel, logits: Tensor, data: Dataset, seed: int) -> Tensor:
    """Choose the class that each sample of ``data`` is driven to, (N,).

    It follows from the clean ``logits`` (N, K); -1 for any wrong one.
    """
    uniform = SampleRng.create(seed, "goal", data.ids).uniform(0, (1,)).squeeze(1)
    return threat.goal.targets(logits, data.y, uniform)
