"""One cell from its job to its record: measured where nothing is there yet, read back where
it is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.errors import CellError, ContradictionError, ModelError, RecordError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.attacked import Measured, measure
from robustbench_lite.evaluation.fitting import fit_attack, is_of_another, needs_fit
from robustbench_lite.evaluation.inputs import Subject
from robustbench_lite.evaluation.job import Job
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.machine.devices import name_of
from robustbench_lite.machine.numerics import settings_of
from robustbench_lite.model.passes import Passes
from robustbench_lite.progress import Teller
from robustbench_lite.records.behaviour import ANEW, anew, objection
from robustbench_lite.records.cell import (
    Identity,
    Record,
    derived_flags,
    make_record,
    read_record,
    write_record,
)
from robustbench_lite.records.files import set_aside
from robustbench_lite.records.journal import Journal
from robustbench_lite.records.npz import read_images, write_images
from robustbench_lite.records.outcomes import CellArrays
from robustbench_lite.records.provenance import provenance
from robustbench_lite.search.fitted import FittedAttack
from robustbench_lite.sources.datasets import Dataset

NO_GRADIENT = "the gradient is 0 at"
"""How the flag begins that masked gradients are told by."""
_SAME_DISTANCE = 1e-6
"""Relative difference that float32 rounding of a stated distance explains."""


@dataclass(frozen=True)
class Workplace:
    """Where cells are kept, and what becomes of those that are there already or fail."""

    folder: Path | None
    journal: Journal
    fresh: bool
    on_error: Literal["raise", "record"]


def cell_of(
    subject: Subject,
    identity: Identity,
    job: Job,
    at: Workplace,
    tell: Teller,
    fit_data: Dataset | None,
    flags: Sequence[str],
) -> Cell:
    """The cell of ``job``: read from its record when there is one of this network, else measured
    and written down.

    ``flags`` are written with it. The record of another network of the same key moves to
    ``replaced``.
    """
    path = None if at.folder is None else at.folder / "cells" / f"{job.key}.json"
    images = None if path is None else path.with_suffix(".npz")
    fit = (
        None
        if at.folder is None or not needs_fit(job.attack)
        else at.folder / "fits" / f"{job.key}.safetensors"
    )
    needed = (
        [file for file in (images, fit) if file is not None] if job.terms.keep_adversarials else []
    )
    status = "partial" if job.scene.data.partial else "complete"
    attack_label = inputs.short_label("attack", job.attack) + ("" if job.adaptive else " (plain)")
    cell = Cell(
        identity=identity,
        model=subject.name,
        defense=subject.label,
        attack=attack_label,
        status=status,
        n=len(job.scene.data),
        path=path,
        forwards_per_point=Passes(job.scene.model, 1, adaptive=job.adaptive).forwards_per_point,
    )
    kept = None if at.fresh or path is None or not path.exists() else read_record(path)
    other = (
        None
        if kept is None
        else objection(kept[0].behaviour, job.scene.behaviour)
        or _of_another_gradient(kept[0], flags)
    )
    if (
        kept is not None
        and other is None
        and all(file.exists() for file in needed)
        and not _more_is_proved(job, kept[1])
    ):
        record, arrays = kept
        tell.rows(len(job.scene.data))
        if needed:
            cell = dataclasses.replace(cell, fitted=_fitted(fit_attack(job, fit_data, fit)))
        x_adv = (
            _load_images(images, job, arrays)
            if job.terms.keep_adversarials and images is not None
            else None
        )
        return dataclasses.replace(cell, arrays=arrays, record=record, x_adv=x_adv, cached=True)
    unfinished = _forget_another(job, at, fit)
    cell = dataclasses.replace(
        cell, note=anew(other, None if path is None else path.parent.parent) or unfinished
    )
    try:
        attack = job.attack
        started = time.perf_counter()
        job = fit_attack(job, fit_data, fit, tell.steps)
        if needs_fit(attack):
            at.journal.add(job.key, [], time.perf_counter() - started)
        measured = measure(job, at.journal, tell.rows)
    except (CellError, ModelError) as error:
        if at.on_error == "raise" or isinstance(error, ContradictionError):
            raise
        return dataclasses.replace(cell, status="error", error=str(error), path=None)
    record = _record(identity, job, measured, flags)
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        if kept is not None and other is not None:
            set_aside(path, kept[0].digest)
        if measured.x_adv is not None and images is not None:
            write_images(images, measured.arrays.broken, measured.x_adv.numpy())
        write_record(record, path)
        at.journal.forget(job.key)
    cell = dataclasses.replace(cell, fitted=_fitted(job))
    return dataclasses.replace(cell, arrays=measured.arrays, record=record, x_adv=measured.x_adv)


def _of_another_gradient(record: Record, flags: Sequence[str]) -> str | None:
    """Answers do not show whether there is a gradient: for an attacker, a network that has got one
    is another.
    """
    before, now = (
        any(flag.startswith(NO_GRADIENT) for flag in some)
        for some in (record.provenance.flags, flags)
    )
    return (
        None
        if before == now
        else "the same answers, but with other gradients, were recorded here before"
    )


def _record(identity: Identity, job: Job, measured: Measured, flags: Sequence[str]) -> Record:
    told = [*flags, *_flags(job), *derived_flags(identity, measured.arrays.unconfirmed)]
    made = provenance(
        seconds=measured.seconds,
        device=name_of(job.terms.device),
        batch_size=job.terms.batch_size,
        partial=job.scene.data.partial,
        flags=told,
        paths=measured.paths,
        numerics=settings_of(job.terms.device),
    )
    return make_record(identity, measured.arrays, made, job.scene.behaviour, measured.margins)


def _forget_another(job: Job, at: Workplace, fit: Path | None) -> str | None:
    """Drop what an unfinished run of another network, or one that was asked for anew, has left; a
    note where it was another.
    """
    if at.fresh:
        at.journal.forget(job.key)
        if fit is not None:
            fit.unlink(missing_ok=True)
    stale = at.journal.begin(job.key, job.scene.behaviour)
    if fit is not None and is_of_another(fit, job):
        fit.unlink(missing_ok=True)  # another run may have been faster
        stale = True
    return ANEW if stale else None


def _more_is_proved(job: Job, arrays: CellArrays) -> bool:
    """The certificate of the record ran out of time, and has been continued since: the cell is
    measured again.
    """
    if job.scene.certified is None or arrays.certified is None:
        return False
    return bool((job.scene.certified.numpy() & ~arrays.certified).any())


def _fitted(job: Job) -> Tensor | None:
    """What the attack of ``job`` was fitted to, on the CPU."""
    fit = job.attack.fitted if isinstance(job.attack, FittedAttack) else None
    return None if fit is None else fit.cpu()


def _flags(job: Job) -> list[str]:
    """What a reader must know of the model before trusting the number."""
    traits = job.scene.model.traits
    if not (job.adaptive and traits.random):
        return []
    return [f"random model: gradients over {traits.draws} draws, verdicts by {traits.votes} votes"]


def _load_images(path: Path, job: Job, arrays: CellArrays) -> Tensor:
    x_adv = job.scene.data.x.clone()
    kept = read_images(path, arrays.broken)
    if kept.shape[1:] != x_adv.shape[1:]:
        raise RecordError(
            f"The images in {path} are {kept.shape[1:]}, the data is {tuple(x_adv.shape[1:])}: run "
            "with --fresh."
        )
    broken = torch.from_numpy(arrays.broken)
    images = torch.from_numpy(kept)
    size = job.scene.threat.norm.size(
        images.double() - x_adv[broken].double()
    )  # as the judge takes it
    if not torch.allclose(
        size, torch.from_numpy(arrays.distance)[broken].double(), rtol=_SAME_DISTANCE, atol=0
    ):
        raise RecordError(
            f"The images in {path} are not as far from the clean ones as the record says: run with "
            "--fresh."
        )
    x_adv[broken] = images
    return x_adv
