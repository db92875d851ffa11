"""Adversarial examples on disk: the broken samples of one cell, with its record.

The record says how they came about.

Two files hold some: the ``.npz`` that ``rbl attack`` writes, which stands on its own, and the
``<key>.npz`` beside the record of ``rbl evaluate --keep-adversarials``, whose clean images are
those of the data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.errors import DataError, RecordError
from robustbench_lite.records.cell import Record, parse_record, read_record
from robustbench_lite.records.npz import read_images, read_npz, write_npz
from robustbench_lite.records.outcomes import CellArrays
from robustbench_lite.sources.dataset import check_data

#: Array of the file -> its type and its number of dimensions; the first is the sample. ``record``
#: is JSON text.
_ARRAYS: dict[str, tuple[str, int]] = {
    "x": ("float32", 4),
    "x_adv": ("float32", 4),
    "y": ("int64", 1),
    "target": ("int64", 1),
    "ids": ("int64", 1),
    "prediction_before": ("int64", 1),
    "prediction_after": ("int64", 1),
    "distance": ("float32", 1),
}


class Context(NamedTuple):
    """What ``rbl attack`` saves beside the adversarials, M rows on the CPU."""

    x: Tensor
    """Clean images, (M, C, H, W)."""
    y: Tensor
    """Labels, (M,)."""
    target: Tensor
    """The class to be reached, (M,); -1 for any wrong one."""
    prediction_before: Tensor
    """The class the model gives the clean image, (M,)."""
    prediction_after: Tensor
    """The class it gives the adversarial, (M,)."""


@dataclass(frozen=True)
class Adversarials:
    """The M broken samples of a cell, on the CPU, in the order of the data."""

    record: Record
    outcomes: CellArrays
    """Of all N samples of the cell."""
    x_adv: Tensor
    """(M, C, H, W)."""
    ids: Tensor
    """Data-set indices, (M,)."""
    distance: Tensor
    """The stated distance of each from its clean image, (M,) float32."""
    context: Context | None
    """None for the images beside a record: the clean ones are in the data set."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def recorded_distance(self) -> Tensor:
        """``distance`` as the sealed record has it, (M,) float32."""
        return torch.from_numpy(self.outcomes.distance[self.outcomes.broken])


def of_cell(
    record: Record, arrays: CellArrays, x_adv: Tensor, context: Context | None
) -> Adversarials:
    """The adversarials ``x_adv`` (M, C, H, W) of the broken samples of a record."""
    distance = torch.from_numpy(arrays.distance[arrays.broken])
    ids = torch.from_numpy(record.identity.data.ids()[arrays.broken])
    return Adversarials(record, arrays, x_adv, ids, distance, context)


def write(saved: Adversarials, path: Path) -> None:
    """Write a file that stands on its own.

    Clean and adversarial images, classes, distances, and the record as JSON.
    """
    if saved.context is None:
        raise ValueError("Without the clean images the file would not stand on its own.")
    rows = {
        "x_adv": saved.x_adv,
        "ids": saved.ids,
        "distance": saved.distance,
        **saved.context._asdict(),
    }
    write_npz(
        path,
        **{name: tensor.numpy() for name, tensor in rows.items()},
        record=saved.record.model_dump_json(),
    )


def read(path: Path) -> Adversarials:
    """Read what :func:`write` wrote, or a cell's record (``.json``) with its images beside it.

    Judges nothing.

    Raises:
        RecordError: it is not there, cut short, no such file, or its parts do not belong together.
    """
    if path.suffix != ".json":
        arrays = read_npz(path)
        if "record" in arrays:
            return _from_arrays(arrays, path)
        if "position" not in arrays or not path.with_suffix(".json").is_file():
            names = ", ".join(sorted(arrays)) or "nothing"
            raise RecordError(
                f"{path} holds no record, but {names}: `rbl verify` takes a file of `rbl attack`, "
                "or a record of `rbl evaluate --keep-adversarials`, with its .npz beside it."
            )
    record, outcomes = read_record(path.with_suffix(".json"))
    images = path.with_suffix(".npz")
    if not images.is_file():
        raise RecordError(
            f"The adversarials of {path} are not beside it, in {images.name}: measure the cell "
            "with --keep-adversarials."
        )
    return of_cell(record, outcomes, torch.from_numpy(read_images(images, outcomes.broken)), None)


def _from_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> Adversarials:
    record, outcomes = parse_record(str(arrays["record"]), f"in {path}")
    m = int(outcomes.broken.sum())
    for name, (kind, dimensions) in _ARRAYS.items():
        found = arrays.get(name)
        if found is None:
            raise RecordError(
                f"{path} lacks the array {name}; a file of `rbl attack` has "
                f"{', '.join([*_ARRAYS, 'record'])}."
            )
        if found.dtype != np.dtype(kind) or found.ndim != dimensions or len(found) != m:
            raise RecordError(
                f"{path} was changed: {name} is {found.dtype} of shape {found.shape}; its record "
                f"has {m} broken samples, so it must be {kind} with {dimensions} dimensions, the "
                f"first of them {m}."
            )
    context = Context(*(torch.from_numpy(arrays[name]) for name in Context._fields))
    saved = of_cell(record, outcomes, torch.from_numpy(arrays["x_adv"]), context)
    if not np.array_equal(arrays["ids"], saved.ids.numpy()):
        raise RecordError(
            f"{path} was changed: its ids are not those of the samples that its record calls "
            "broken."
        )
    if m:
        try:
            check_data(context.x, context.y)
        except DataError as error:
            raise RecordError(f"{path} was changed: {error}") from error
    if arrays["x"].shape != arrays["x_adv"].shape:
        raise RecordError(
            f"{path} was changed: x is {arrays['x'].shape}, x_adv is {arrays['x_adv'].shape}."
        )
    return replace(saved, distance=torch.from_numpy(arrays["distance"]))
