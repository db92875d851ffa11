"""One cell, from its job to its record: read back if it is there, and measured if it is not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from robustbench_lite.errors import CellError, ContradictionError, ModelError
from robustbench_lite.evaluation.attacked import Measured
from robustbench_lite.evaluation.fitting import fit_attack, needs_fit
from robustbench_lite.evaluation.job import Job
from robustbench_lite.evaluation.kept import Files, load_images, object_to, still_does
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.evaluation.stages import measure_cell
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.devices import name_of
from robustbench_lite.machine.numerics import settings_of
from robustbench_lite.model.passes import Passes
from robustbench_lite.progress import Teller
from robustbench_lite.records.behaviour import ANEW, anew
from robustbench_lite.records.cell import (
    ReadRecord,
    Record,
    derived_flags,
    make_record,
    read_record,
    write_record,
)
from robustbench_lite.records.files import set_aside
from robustbench_lite.records.fit import is_of_another
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.journal import Journal
from robustbench_lite.records.npz import write_images
from robustbench_lite.records.provenance import make_provenance
from robustbench_lite.search.fitted import FittedAttack
from robustbench_lite.sources.dataset import Dataset


@dataclass(frozen=True)
class Workplace:
    """Where cells are kept, and what becomes of those that are there already or fail."""

    folder: Path | None
    journal: Journal
    fresh: bool
    on_error: Literal["raise", "record"]


def produce_cell(
    subject: Subject,
    identity: Identity,
    job: Job,
    at: Workplace,
    tell: Teller,
    fit_data: Dataset | None,
    flags: Sequence[str],
) -> Cell:
    """Read the cell of ``job`` from its record if there is one of this network, else measure it.

    Args:
        subject: what is attacked.
        identity: everything that decides the outcome.
        job: what is to be measured.
        at: where records are kept; that of another network of the same key moves to ``replaced``.
        tell: hears how far it is.
        fit_data: training images, for an attack that is fitted on some.
        flags: what a reader must know of the network; written with the cell.

    Raises:
        CellError, ModelError: the attack or the network fails; unless the cell is to say so itself.
        ContradictionError: a sample is certified and broken.
    """
    files = Files.of(job, at.folder)
    cell = _announce(subject, identity, job, files)
    kept = _read_kept(files, at)
    other = None if kept is None else object_to(kept.record, job, flags)
    if kept is not None and other is None and still_does(kept, job, files):
        tell.rows(len(job.scene.data))
        return _recall(cell, kept, job, files, fit_data)
    unfinished = _forget_another(job, at, files.fit)
    cell = dataclasses.replace(cell, note=anew(other, at.folder) or unfinished)
    try:
        job = _fit(job, at, files, fit_data, tell)
        measured = measure_cell(job, at.journal, tell.rows)
    except (CellError, ModelError) as error:
        if at.on_error == "raise" or isinstance(error, ContradictionError):
            raise
        return dataclasses.replace(cell, status="error", error=str(error), path=None)
    record = _record(identity, job, measured, flags)
    if files.record is not None:
        replaced = kept.record if kept is not None and other is not None else None
        _write(record, measured, files, replaced)
        at.journal.forget(job.key)
    return dataclasses.replace(
        cell,
        fitted=_perturbation(job),
        arrays=measured.arrays,
        record=record,
        x_adv=measured.x_adv,
    )


def _announce(subject: Subject, identity: Identity, job: Job, files: Files) -> Cell:
    """What is known of a cell before it is measured."""
    passes = Passes(job.scene.model, 1, adaptive=job.adaptive)
    return Cell(
        identity=identity,
        model=subject.name,
        defense=subject.label,
        attack=short_label("attack", job.attack) + ("" if job.adaptive else " (plain)"),
        status="partial" if job.scene.data.partial else "complete",
        n=len(job.scene.data),
        path=files.record,
        forwards_per_point=passes.forwards_per_point,
    )


def _read_kept(files: Files, at: Workplace) -> ReadRecord | None:
    """The record that an earlier run has left, if it may stand."""
    if at.fresh or files.record is None or not files.record.exists():
        return None
    return read_record(files.record)


def _recall(cell: Cell, kept: ReadRecord, job: Job, files: Files, fit_data: Dataset | None) -> Cell:
    """The cell as an earlier run has measured it."""
    cell = dataclasses.replace(cell, arrays=kept.arrays, record=kept.record, cached=True)
    if not job.terms.keep_adversarials or files.images is None:
        return cell
    fitted = _perturbation(fit_attack(job, fit_data, files.fit))
    x_adv = load_images(files.images, job, kept.arrays)
    return dataclasses.replace(cell, fitted=fitted, x_adv=x_adv)


def _fit(job: Job, at: Workplace, files: Files, fit_data: Dataset | None, tell: Teller) -> Job:
    """``job`` with its attack fitted, if it is of that kind; the time counts as the cell's."""
    started = time.perf_counter()
    ready = fit_attack(job, fit_data, files.fit, tell.steps)
    if needs_fit(job.attack):
        at.journal.add(job.key, [], time.perf_counter() - started)
    return ready


def _write(record: Record, measured: Measured, files: Files, replaced: Record | None) -> None:
    """Write a record, with its images if they are kept; one that it replaces is set aside."""
    if files.record is None:
        return
    files.record.parent.mkdir(exist_ok=True)
    if replaced is not None:
        set_aside(files.record, replaced.digest)
    if measured.x_adv is not None and files.images is not None:
        write_images(files.images, measured.arrays.broken, measured.x_adv.numpy())
    write_record(record, files.record)


def _record(identity: Identity, job: Job, measured: Measured, flags: Sequence[str]) -> Record:
    """Seal what was measured, with what a reader must know of it."""
    told = [*flags, *_flags(job), *derived_flags(identity, measured.arrays.unconfirmed)]
    made = make_provenance(
        seconds=measured.seconds,
        device=name_of(job.terms.device),
        batch_size=job.terms.batch_size,
        partial=job.scene.data.partial,
        flags=told,
        paths=measured.paths,
        numerics=settings_of(job.terms.device),
        stage_seconds=measured.stage_seconds,
    )
    return make_record(identity, measured.arrays, made, job.scene.behaviour, measured.margins)


def _forget_another(job: Job, at: Workplace, fit: Path | None) -> str | None:
    """Drop what an unfinished run has left of another network, or of a cell to be measured afresh.

    Returns:
        A note, where it was of another network.
    """
    if at.fresh:
        at.journal.forget(job.key)
        if fit is not None:
            fit.unlink(missing_ok=True)
    stale = at.journal.begin(job.key, job.scene.behaviour)
    if fit is not None and is_of_another(fit, job.key, job.scene.behaviour):
        fit.unlink(missing_ok=True)  # another run may have been faster
        stale = True
    return ANEW if stale else None


def _perturbation(job: Job) -> Tensor | None:
    """What the attack of ``job`` has made of training images, on the CPU."""
    fit = job.attack.fitted if isinstance(job.attack, FittedAttack) else None
    return None if fit is None else fit.cpu()


def _flags(job: Job) -> list[str]:
    """What a reader must know of the model before trusting the number."""
    traits = job.scene.model.traits
    if not (job.adaptive and traits.random):
        return []
    return [f"random model: gradients over {traits.draws} draws, verdicts by {traits.votes} votes"]
