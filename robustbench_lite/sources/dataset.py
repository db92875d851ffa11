"""Labelled images: the ``Dataset`` that everything takes, and the checks that it passes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import DataError
from robustbench_lite.files.reading import MAX_CLASSES

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """Labelled images, on the CPU."""

    name: str
    split: str
    x: Tensor
    """(N, C, H, W) float32 in [0, 1]."""
    y: Tensor
    """(N,) int64, counted from 0."""
    ids: Tensor
    """(N,) int64: the index of each sample in the whole split."""
    classes: int | None
    """None where the source does not say: the labels of a part may leave classes out."""
    full_size: int
    """Samples of the whole split."""
    class_names: tuple[str, ...] | None = None
    """None where the source has no names."""

    def __post_init__(self) -> None:
        check_data(self.x, self.y, self.classes)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor | slice) -> Dataset:
        """Some of the samples, by position or by mask: images, labels and ids go together."""
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows])

    def class_name(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        names = self.class_names or ()
        return names[label] if 0 <= label < len(names) else str(label)

    @property
    def partial(self) -> bool:
        """Samples of the split were left out (by ``limit``)."""
        return len(self) < self.full_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 over shape, images and labels: equal content gives an equal one."""
        digest = hashlib.sha256(repr(tuple(self.x.shape)).encode())
        digest.update(self.x.contiguous().numpy().data)
        digest.update(self.y.contiguous().numpy().data)
        return digest.hexdigest()

    def first(self, limit: int) -> Dataset:
        """The first ``limit`` samples."""
        if not 1 <= limit <= len(self):
            raise DataError(
                f"limit is {limit}; {self.name} ({self.split}) has {len(self):,} images."
            )
        return self.take(slice(limit))


def check_data(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """Check that ``x`` is (N, C, H, W) float32 in [0, 1] and ``y`` (N,) int64, counted from 0.

    Raises:
        DataError: they are not; the message says what to do.
    """
    _check_form(x, y)
    _check_values(x)
    _check_labels(y, classes)


def _check_form(x: Tensor, y: Tensor) -> None:
    """Raise unless shapes and dtypes are those of images, and of a label each."""
    if x.dim() != 4:
        raise DataError(
            f"x has the shape {tuple(x.shape)}; images are (N, C, H, W). One image is "
            "x.unsqueeze(0)."
        )
    if x.numel() == 0 or y.numel() == 0:
        raise DataError(
            f"There are no samples: x has the shape {tuple(x.shape)}, y {tuple(y.shape)}."
        )
    if x.dtype == torch.uint8:
        raise DataError(
            "x is uint8; images are float32 in [0, 1]. Convert and divide by 255: x.float() / 255."
        )
    if x.dtype != torch.float32:
        raise DataError(
            f"x is {x.dtype}; images are float32 in [0, 1]. Convert them with x.float()."
        )
    if y.dtype != torch.int64 or y.dim() != 1:
        raise DataError(
            f"y is {y.dtype} of shape {tuple(y.shape)}; labels are (N,) int64. Convert them with "
            "y.long()."
        )
    if len(x) != len(y):
        raise DataError(f"There are {len(x)} images and {len(y)} labels; each image needs one.")


def _check_values(x: Tensor) -> None:
    """Raise unless the values of the images ``x`` lie in [0, 1]."""
    low, high = (float(value) for value in x.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(
            f"x has nan or infinite values, first in image {bad}. Images lie in [0, 1]."
        )
    if low < 0 or high > 1:
        undo = "undo the normalisation, which belongs inside the model"
        fix = "divide by 255" if low >= 0 else undo
        raise DataError(
            f"x lies in [{low:g}, {high:g}]; images lie in [0, 1]. The likely fix: {fix}."
        )


def _check_labels(y: Tensor, classes: int | None) -> None:
    """Raise unless the labels ``y`` count from 0, up to ``classes``."""
    smallest = int(y.min())
    largest = int(y.max())
    if largest >= MAX_CLASSES:
        raise DataError(
            f"Labels run up to {largest}; at most {MAX_CLASSES:,} classes are taken. Number them "
            "from 0."
        )
    if smallest < 0 or (classes is not None and largest >= classes):
        allowed = f"0 to {classes - 1}" if classes is not None else "0 and up"
        raise DataError(
            f"Labels run from {smallest} to {largest}; {allowed} is allowed. Labels count from 0."
        )


def tensor_from(value: Any) -> Tensor:
    """Turn what numpy takes for an array, of any byte order and strides, into a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        # A copy where it has to be one: torch takes neither foreign byte orders nor negative
        # strides, and may write.
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        return torch.from_numpy(array if array.flags.writeable else array.copy()).reshape(
            np.shape(value)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{type(value).__name__} is no array of numbers: {error}. Give numpy arrays or tensors."
        ) from error
