"""What an earlier run has left of a cell, and whether it may stand for the cell now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustbench_lite.errors import RecordError
from robustbench_lite.evaluation.fitting import needs_fit
from robustbench_lite.evaluation.job import Job
from robustbench_lite.evaluation.masking import NO_GRADIENT
from robustbench_lite.records.behaviour import objection
from robustbench_lite.records.cell import ReadRecord, Record
from robustbench_lite.records.npz import read_images
from robustbench_lite.records.outcomes import CellArrays

_SAME_DISTANCE = 1e-6
"""Relative difference that float32 rounding of a stated distance explains."""


@dataclass(frozen=True)
class Files:
    """Where the parts of a cell lie on disk; None for what is not written."""

    record: Path | None = None
    images: Path | None = None
    fit: Path | None = None

    @classmethod
    def of(cls, job: Job, folder: Path | None) -> Files:
        """Name the files of ``job`` below ``folder``."""
        if folder is None:
            return cls()
        record = folder / "cells" / f"{job.key}.json"
        fit = folder / "fits" / f"{job.key}.safetensors" if needs_fit(job.attack) else None
        return cls(record, record.with_suffix(".npz"), fit)

    def all_there(self) -> bool:
        """Whether what belongs to a record that keeps its images lies beside it."""
        return all(file is None or file.exists() for file in (self.images, self.fit))


def object_to(kept: Record, job: Job, flags: Sequence[str]) -> str | None:
    """Say why a record under this key is not one of this network; None where it is."""
    return objection(kept.behaviour, job.scene.behaviour) or _of_another_gradient(kept, flags)


def still_does(kept: ReadRecord, job: Job, files: Files) -> bool:
    """Whether a record of this network has everything that is asked for now."""
    if job.terms.keep_adversarials and not files.all_there():
        return False
    return not _more_is_proved(job, kept.arrays)


def _of_another_gradient(record: Record, flags: Sequence[str]) -> str | None:
    """Say so where a network has got a gradient that had none, or the other way round.

    Answers do not show whether there is a gradient: for an attacker, such a network is another.
    """
    before = any(flag.startswith(NO_GRADIENT) for flag in record.provenance.flags)
    now = any(flag.startswith(NO_GRADIENT) for flag in flags)
    if before == now:
        return None
    return "the same answers, but with other gradients, were recorded here before"


def _more_is_proved(job: Job, arrays: CellArrays) -> bool:
    """Whether the certificate of the record ran out of time, and has been continued since.

    The cell is measured again then.
    """
    if job.scene.certified is None or arrays.certified is None:
        return False
    return bool((job.scene.certified.numpy() & ~arrays.certified).any())


def load_images(path: Path, job: Job, arrays: CellArrays) -> Tensor:
    """Read the images (N, C, H, W) that an earlier run has kept; clean ones where none was found.

    Raises:
        RecordError: they are not those of the record.
    """
    x_adv = job.scene.data.x.clone()
    kept = read_images(path, arrays.broken)
    if kept.shape[1:] != x_adv.shape[1:]:
        raise RecordError(
            f"The images in {path} are {kept.shape[1:]}, the data is {tuple(x_adv.shape[1:])}: run "
            "with --fresh."
        )
    broken = torch.from_numpy(arrays.broken)
    images = torch.from_numpy(kept)
    delta = images.double() - x_adv[broken].double()  # as the judge takes it
    size = job.scene.threat.norm.size(delta)
    stated = torch.from_numpy(arrays.distance)[broken].double()
    if not torch.allclose(size, stated, rtol=_SAME_DISTANCE, atol=0):
        raise RecordError(
            f"The images in {path} are not as far from the clean ones as the record says: run with "
            "--fresh."
        )
    x_adv[broken] = images
    return x_adv
