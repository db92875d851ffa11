"""Fit an attack to training images before its cell is measured; a fit that was killed goes on where
it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from robustbench_lite.defense.composition import parts_of
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import DataError, ModelError, RecordError, UsageError, as_model_error
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.diagnosis import Outputs, prepare
from robustbench_lite.evaluation.inputs import Subject
from robustbench_lite.evaluation.job import Job
from robustbench_lite.files.numerals import parse_whole
from robustbench_lite.files.reading import WEIGHTS_BYTES, Form, explained, reading
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.behaviour import Behaviour, objection
from robustbench_lite.records.files import write_bytes
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.fitted import Fit, FittedAttack, UniversalAttack
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel

_FIT = Form(
    noun="fit",
    what="a fit that is damaged or was changed",
    most=WEIGHTS_BYTES,
    error=RecordError,
    fix="Delete it, or run with --fresh.",
)
CALIBRATION_IMAGES = 5000
_SAVE_SECONDS = 2.0
"""At most this much work is lost by a kill."""
_TELL_SECONDS = 0.25


def needs_fit(attack: Attack) -> bool:
    """Training images must be there before ``attack`` can run."""
    return isinstance(attack, FittedAttack) and attack.fits


def check_fit_data(attack: Attack | Defense, images: Dataset | None, data: Dataset) -> None:
    """There are images to fit ``attack`` (or a defense) on, they look like those of ``data``, and
    they are others.
    """
    if images is None:
        raise UsageError(
            f"{attack.name} is fitted on training images, and there are none: give "
            "fit_data=(x_train, y_train), or a data set "
            "with a training split (npz: x_train and y_train beside x_test and y_test; folder: "
            "train and test)."
        )
    if images.x.shape[1:] != data.x.shape[1:]:
        shapes = f"{tuple(images.x.shape[1:])}, those to be attacked {tuple(data.x.shape[1:])}"
        raise DataError(
            f"The images that {attack.name} is to be fitted on are {shapes}: give training images "
            "of the same kind."
        )
    overlap = (images.name, images.split) == (data.name, data.split) and bool(
        torch.isin(images.ids, data.ids).any()
    )
    if overlap or images.fingerprint == data.fingerprint:
        raise UsageError(
            f"{attack.name} would be fitted on the images that it is scored on, {data.name} "
            f"({data.split}): keep some apart, "
            "in a test split (npz: x_train, y_train, x_test, y_test; folder: train and test)."
        )


@exactly
def calibrate_defense(
    subject: Subject,
    images: Dataset | None,
    data: Dataset,
    device: str,
    outputs: Outputs = "logits",
) -> Subject:
    """``subject`` with what its defense sets from training images; any other subject as it is.

    The first ``CALIBRATION_IMAGES`` will do: at a share of 5 % their number alone is off by 0.3 %
    (one standard error).
    """
    defense = subject.defense
    if not defense.calibrates:
        return subject
    check_fit_data(next(part for part in parts_of(defense) if part.calibrates), images, data)
    if images is None:
        raise TypeError("check_fit_data lets no None through.")
    where = inputs.pick_device(device)
    model = prepare(subject.module, Defense(), where, outputs).module
    few = images.x[:CALIBRATION_IMAGES].to(where)
    with as_model_error(
        f"The model fails while {defense.name} is calibrated on {len(few):,} training images"
    ):
        defense = defense.calibrated(model, few)
    return dataclasses.replace(
        subject, defense=defense, label=inputs.short_label("defense", defense)
    )


@exactly
def fit_attack(
    job: Job,
    images: Dataset | None,
    path: Path | None,
    on_step: Callable[[int, int], None] = lambda step, of: None,
) -> Job:
    """``job`` with its attack fitted to ``images``; any other job as it is.

    The state of the fit lies at ``path``, where a later call finds it, whole or in part.
    ``on_step`` hears the steps taken, and of how many.
    """
    attack = job.attack
    if not isinstance(attack, FittedAttack) or not attack.fits or images is None:
        return job
    found = None if path is None else _read(path, job, attack, tuple(images.x.shape[1:]))
    if found is None or found.step < found.of:
        found = _run(attack, job, images, found, path, on_step)
    return dataclasses.replace(job, attack=dataclasses.replace(attack, fitted=found.result))


def _run(
    attack: FittedAttack,
    job: Job,
    images: Dataset,
    fit: Fit | None,
    path: Path | None,
    on_step: Callable[[int, int], None],
) -> Fit:
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
    """The training images that there is something to learn from: those that are classified
    correctly.

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
            f"({images.name}, "
            f"{images.split}) the model classifies none correctly that the goal makes sense for."
        )
    y = images.y[rows]
    target = _targets(job.scene.threat, clean.logits[rows], y)
    points = Points(images.x[rows], y, target, images.ids[rows], torch.zeros_like(y))
    return Points(*(field.to(job.terms.device) for field in points))


def _targets(threat: ThreatModel, logits: Tensor, y: Tensor) -> Tensor:
    return threat.goal.targets(
        logits, y, torch.zeros(len(y))
    )  # the number is for goals that a universal attack cannot have


def is_of_another(path: Path, job: Job) -> bool:
    """A fit lies at ``path``, and not of the network of ``job``: nobody asked that one, or it
    answers otherwise.
    """
    return (
        path.exists()
        and objection(_stored(path, job.key).behaviour, job.scene.behaviour) is not None
    )


def attribute(path: Path, key: str, behaviour: Behaviour) -> bool:
    """Write into a fit of the cell ``key`` what its network answers, where it does not say so yet;
    True if it was written.
    """
    stored = _stored(path, key)
    if stored.behaviour is None:
        _save(path, key, stored._replace(behaviour=behaviour))
    return stored.behaviour is None


class _Stored(NamedTuple):
    """The content of a file; tensors on the CPU, with the result among them."""

    step: int
    of: int
    tensors: dict[str, Tensor]
    behaviour: Behaviour | None


def _seal(key: str, stored: _Stored) -> str:
    """A checksum that ties a state to its cell."""
    said = "" if stored.behaviour is None else f"/{stored.behaviour.model_dump_json()}"
    digest = hashlib.sha256(f"{key}/{stored.step}/{stored.of}{said}".encode())
    tensors = stored.tensors
    for name in sorted(tensors):
        digest.update(
            f"/{name}{tuple(tensors[name].shape)}".encode() + tensors[name].numpy().tobytes()
        )
    return digest.hexdigest()


def _write(path: Path, job: Job, fit: Fit) -> None:
    needed = dict(fit.tensors) if fit.step < fit.of else {}
    tensors = {
        name: t.detach().cpu().contiguous() for name, t in (needed | {"result": fit.result}).items()
    }
    path.parent.mkdir(exist_ok=True)
    _save(path, job.key, _Stored(fit.step, fit.of, tensors, job.scene.behaviour))


def _save(path: Path, key: str, stored: _Stored) -> None:
    about = {"step": str(stored.step), "of": str(stored.of), "seal": _seal(key, stored)}
    if stored.behaviour is not None:
        about["behaviour"] = stored.behaviour.model_dump_json()
    write_bytes(path, save(stored.tensors, about))


def _read(path: Path, job: Job, attack: FittedAttack, shape: tuple[int, ...]) -> Fit | None:
    """The state at ``path``; None where there is none, or that of another network. Images are of
    ``shape`` (C, H, W).
    """
    if not os.path.lexists(path) or is_of_another(path, job):
        return None
    stored = _stored(path, job.key)
    tensors = {name: value.to(job.terms.device) for name, value in stored.tensors.items()}
    fit = Fit(stored.step, stored.of, tensors.pop("result"), tensors)
    with explained(str(path), _FIT):
        if not bool(fit.result.isfinite().all()) or not attack.may_go_on_from(
            fit, shape, job.scene.threat
        ):
            raise ValueError(f"it is no fit of {attack.name} for images of {shape}")
    return fit


def _stored(path: Path, key: str) -> _Stored:
    with reading(path, _FIT):
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step = parse_whole(about["step"])
        of = parse_whole(about["of"])
        if step is None or of is None or not 0 <= step <= of:
            raise ValueError(f"it stands at step {about['step']} of {about['of']}")
        said = about.get("behaviour")
        stored = _Stored(
            step, of, tensors, None if said is None else Behaviour.model_validate_json(said)
        )
        if about["seal"] != _seal(key, stored) or "result" not in tensors:
            raise ValueError("its contents do not agree with its seal")
        return stored
