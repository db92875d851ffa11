"""Fit attacks and calibrate defenses on training images, before anything is measured.

A fit that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from robustbench_lite.defense.composition import parts_of
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import DataError, ModelError, UsageError, as_model_error
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.devices import pick_device
from robustbench_lite.evaluation.job import Job
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.files.reading import explain
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.fit import FIT, StoredFit, is_of_another, read_fit, write_fit
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.fitted import Fit, FittedAttack, UniversalAttack
from robustbench_lite.sources.dataset import Dataset

CALIBRATION_IMAGES = 5000
_SAVE_SECONDS = 2.0
"""At most this much work is lost by a kill."""
_TELL_SECONDS = 0.25


def needs_fit(attack: Attack) -> bool:
    """Whether training images must be there before ``attack`` can run."""
    return isinstance(attack, FittedAttack) and attack.fits


def check_fit_data(attack: Attack | Defense, images: Dataset | None, data: Dataset) -> None:
    """Check that there are images to fit an attack (or a defense) on.

    Args:
        attack: what is to be fitted.
        images: training images; they must look like those of ``data``, and be others.
        data: what it is scored on.

    Raises:
        UsageError: there are none, or they are those of ``data``.
        DataError: they are of another shape.
    """
    if images is None:
        raise UsageError(
            f"{attack.name} is fitted on training images, and there are none: give "
            "fit_data=(x_train, y_train), or a data set with a training split (npz: x_train and "
            "y_train beside x_test and y_test; folder: train and test)."
        )
    if images.x.shape[1:] != data.x.shape[1:]:
        shapes = f"{tuple(images.x.shape[1:])}, those to be attacked {tuple(data.x.shape[1:])}"
        raise DataError(
            f"The images that {attack.name} is to be fitted on are {shapes}: give training images "
            "of the same kind."
        )
    same_split = (images.name, images.split) == (data.name, data.split)
    overlap = same_split and bool(torch.isin(images.ids, data.ids).any())
    if overlap or images.fingerprint == data.fingerprint:
        raise UsageError(
            f"{attack.name} would be fitted on the images that it is scored on, {data.name} "
            f"({data.split}): keep some apart, in a test split (npz: x_train, y_train, x_test, "
            "y_test; folder: train and test)."
        )


@exactly
def calibrate_defense(
    subject: Subject,
    images: Dataset | None,
    data: Dataset,
    device: str,
    outputs: Outputs = "logits",
) -> Subject:
    """Let the defense of ``subject`` set from training images what it is to set from them.

    A subject without such a defense is handed back as it is. The first ``CALIBRATION_IMAGES`` will
    do: at a share of 5 % their number alone is off by 0.3 % (one standard error).
    """
    defense = subject.defense
    if not defense.calibrates:
        return subject
    check_fit_data(next(part for part in parts_of(defense) if part.calibrates), images, data)
    if images is None:
        raise TypeError("check_fit_data lets no None through.")
    where = pick_device(device)
    model = prepare(subject.module, Defense(), where, outputs).module
    few = images.x[:CALIBRATION_IMAGES].to(where)
    with as_model_error(
        f"The model fails while {defense.name} is calibrated on {len(few):,} training images"
    ):
        defense = defense.calibrated(model, few)
    return dataclasses.replace(subject, defense=defense, label=short_label("defense", defense))


@exactly
def fit_attack(
    job: Job,
    images: Dataset | None,
    path: Path | None,
    on_step: Callable[[int, int], None] = lambda step, of: None,
) -> Job:
    """Fit the attack of ``job`` to ``images``; a job of any other attack is handed back as it is.

    Args:
        job: what is to be measured.
        images: training images.
        path: where the state of the fit lies for a later call to find, whole or in part.
        on_step: hears the steps taken, and of how many.
    """
    attack = job.attack
    if not isinstance(attack, FittedAttack) or not attack.fits or images is None:
        return job
    found = None if path is None else _read(path, job, attack, tuple(images.x.shape[1:]))
    if found is None or found.step < found.of:
        found = _go_on(attack, job, images, found, path, on_step)
    return dataclasses.replace(job, attack=dataclasses.replace(attack, fitted=found.result))


def _go_on(
    attack: FittedAttack,
    job: Job,
    images: Dataset,
    fit: Fit | None,
    path: Path | None,
    on_step: Callable[[int, int], None],
) -> Fit:
    """Fit ``attack`` to the end, from the start or from ``fit``, and write down how far it is."""
    passes = Passes(job.scene.model, job.terms.batch_size, job.terms.seed, fast=True)
    saved = told = time.monotonic()
    for fit in attack.fit(passes, _points(job, images), job.scene.threat, job.terms.seed, fit):  # noqa: B020 -- where it goes on from
        now = time.monotonic()
        if now - told > _TELL_SECONDS:
            on_step(fit.step, fit.of)
            told = now
        if path is not None and now - saved > _SAVE_SECONDS:
            _write(path, job, fit)
            saved = time.monotonic()
    if fit is None or not bool(fit.result.isfinite().all()):
        raise ModelError(
            f"The model returned NaN or inf while {attack.name} was fitted: check its weights and "
            "normalisation."
        )
    if path is not None:
        _write(path, job, fit)
    on_step(fit.step, fit.of)
    return fit


def _points(job: Job, images: Dataset) -> Points:
    """The training images to learn from: those that are classified correctly.

    What is one perturbation for all images learns from none of the target class; what starts from
    images needs just these.
    """
    terms = job.terms
    clean = clean_logits(job.scene.model, images, terms.batch_size, terms.device, terms.seed)
    rows = clean.correct
    if isinstance(job.attack, UniversalAttack):
        rows = rows & job.scene.threat.goal.applies_to(images.y)
    if not bool(rows.any()):
        raise DataError(
            f"{job.attack.name} has nothing to be fitted on: of {len(images):,} training images "
            f"({images.name}, {images.split}) the model classifies none correctly that the goal "
            "makes sense for."
        )
    y = images.y[rows]
    none = torch.zeros(len(y))  # the number is for goals that a universal attack cannot have
    target = job.scene.threat.goal.targets(clean.logits[rows], y, none)
    points = Points(images.x[rows], y, target, images.ids[rows], torch.zeros_like(y))
    return Points(*(field.to(job.terms.device) for field in points))


def _write(path: Path, job: Job, fit: Fit) -> None:
    """Write the state of a fit; of a finished one just the result."""
    tensors = {**fit.tensors, "result": fit.result} if fit.step < fit.of else {"result": fit.result}
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_fit(path, job.key, StoredFit(fit.step, fit.of, kept, job.scene.behaviour))


def _read(path: Path, job: Job, attack: FittedAttack, shape: tuple[int, ...]) -> Fit | None:
    """The state at ``path``, for images of ``shape`` (C, H, W).

    None where there is none, or that of another network.
    """
    if not os.path.lexists(path) or is_of_another(path, job.key, job.scene.behaviour):
        return None
    stored = read_fit(path, job.key)
    tensors = {name: value.to(job.terms.device) for name, value in stored.tensors.items()}
    fit = Fit(stored.step, stored.of, tensors.pop("result"), tensors)
    with explain(str(path), FIT):
        finite = bool(fit.result.isfinite().all())
        if not finite or not attack.may_go_on_from(fit, shape, job.scene.threat):
            raise ValueError(f"it is no fit of {attack.name} for images of {shape}")
    return fit
