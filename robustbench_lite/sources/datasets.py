"""Images and labels: the bundled slice, torchvision's sets, and a user's own files, all as one
``Dataset``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import DataError, UnknownNameError
from robustbench_lite.files.reading import MAX_CLASSES, below
from robustbench_lite.sources.data_files import (
    Labelled,
    from_folder,
    from_npz,
    from_parquet,
    from_torchvision,
)

Split = Literal["train", "test"]
BUNDLED = ("fashion_mnist", "mnist")
"""Their first 1,000 images of each split come with the package: Fashion-MNIST (Xiao et al. 2017,
arXiv:1708.07747; MIT licence, Zalando SE) and MNIST (LeCun et al. 1998; CC BY-SA 3.0, Yann LeCun
and Corinna Cortes)."""
_TORCHVISION = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST", "mnist": "MNIST"}
_LAYOUT = {
    "cifar10": "cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta",
    "fashion_mnist": "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
    "mnist": "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
}
_CLASS_NAMES = {
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
NOTES = {
    "cifar10-jpeg": (
        "JPEG copies (quality 75) of CIFAR-10, in another order: "
        "no figure on them is one on CIFAR-10"
    )
}
"""What must stand beside every figure on a data set."""
_FILES = ("npz:", "folder:")
NAMES = (*sorted((*_TORCHVISION, "cifar10-jpeg")), "npz:FILE", "folder:DIR")


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
        """SHA-256 over shape, images and labels: equal content, from whatever file, has an equal
        fingerprint.
        """
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


def load_dataset(
    spec: str,
    *,
    split: Split = "test",
    limit: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    bundled: bool = False,
) -> Dataset:
    """Read a data set.

    Args:
        spec: ``fashion_mnist``, ``mnist``, ``cifar10``, ``cifar10-jpeg`` (JPEG copies: never report
            them as CIFAR-10), ``npz:FILE`` (arrays x, y, or x_train, y_train, x_test, y_test; float
            in [0, 1] or uint8; NCHW, NHWC or NHW) or ``folder:DIR`` (a sub-folder a class, in DIR
            or in DIR/train and DIR/test).
        limit: keep the first ``limit`` samples; a shorter set is ``partial``.
        data_dir: where torchvision keeps its files; default ``$RBL_DATA_DIR``, else the user's
            cache. ``fashion_mnist`` and ``mnist`` with neither given are the bundled slices,
            ``test[:1000]`` or ``train[:1000]``.
        download: let torchvision fetch what is not there.
        bundled: the slice that comes with the package, wherever other copies lie.

    Raises:
        DataError: nothing there, damaged, or not images in [0, 1] with labels; the message says
        what to put where. UnknownNameError: no data set has that name.
    """
    if split not in ("train", "test"):
        raise UnknownNameError("split", split, ("train", "test"))
    root = data_root(data_dir)
    given = given_root(data_dir)
    if bundled and spec not in BUNDLED:
        raise DataError(
            f"No images of {spec} come with the package, only those of {' and '.join(BUNDLED)}."
        )
    bundled = bundled or (spec in BUNDLED and not given and not download)
    if bundled and limit is not None and limit > 1000:
        raise DataError(
            f"limit is {limit}, and the bundled slice of {spec} has 1,000 images. "
            "For all of them add --download, or --data-dir with a folder that has them."
        )
    if bundled:
        read = from_npz(bundled_file(spec, split), split)._replace(split=f"{split}[:1000]")
        data = _dataset(spec, read, classes=10)
    elif spec.startswith(_FILES):
        data = _from_path(spec, Path(spec.partition(":")[2]), split)
    elif spec == "cifar10-jpeg":
        data = _dataset(
            spec, from_parquet(root / "cifar10-jpeg" / f"{split}.parquet", spec, split), classes=10
        )
    elif spec in _TORCHVISION:
        data = _dataset(
            spec,
            from_torchvision(spec, _TORCHVISION[spec], split, root, download, _LAYOUT[spec]),
            classes=10,
        )
    else:
        raise UnknownNameError("data set", spec, NAMES)
    return data if limit is None else data.first(limit)


def load_named(
    name: str,
    root: str | Path | None,
    *,
    split: Split = "test",
    data_dir: str | Path | None = None,
    download: bool = False,
    bundled: bool = False,
) -> Dataset:
    """The data set that a file names: a record, or a board. One of images of one's own is looked
    for below ``root`` alone.

    Raises:
        DataError: besides those of :func:`load_dataset`, the name has a path, and no ``root`` was
        given. UsageError: the path leaves ``root``.
    """
    kind, _, path = name.partition(":")
    if not name.startswith(_FILES):
        return load_dataset(
            name, split=split, data_dir=data_dir, download=download, bundled=bundled
        )
    advice = (
        f"Name the images themselves: --dataset {kind}:PATH, or with --data-dir the folder that "
        f"{path!r} lies in."
    )
    if root is None:
        raise DataError(
            f"The images are those of {name!r}, and a path is not opened because a file names it. "
            f"{advice}"
        )
    return _from_path(
        name, below(Path(os.path.expanduser(root)), path, "The data set", advice), split
    )


def _from_path(name: str, path: Path, split: Split) -> Dataset:
    """Images of one's own, called ``name``."""
    path = Path(os.path.expanduser(path))
    if name.startswith("npz:"):
        return _dataset(name, from_npz(path, split))
    read = from_folder(path, split)
    return _dataset(name, read, len(read.classes or ()))


def can_download(name: str) -> bool:
    """torchvision can fetch the data set."""
    return name in _TORCHVISION


def bundled_file(name: str, split: str) -> Path:
    """Where the slice of a bundled data set lies."""
    return Path(str(files("robustbench_lite") / "data" / f"{name}_{split}_1000.npz"))


def given_root(data_dir: str | Path | None = None) -> Path | None:
    """``data_dir``, else ``$RBL_DATA_DIR``; None where the user has named no folder."""
    given = data_dir or os.environ.get("RBL_DATA_DIR")
    return Path(given) if given else None


def data_root(data_dir: str | Path | None = None) -> Path:
    """Where data is looked for: ``data_dir``, else ``$RBL_DATA_DIR``, else the user's cache."""
    given = given_root(data_dir)
    return (
        Path(os.path.expanduser(given))
        if given
        else Path.home() / ".cache" / "robustbench_lite" / "data"
    )


def check_data(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """Raise ``DataError`` unless ``x`` is (N, C, H, W) float32 in [0, 1] and ``y`` (N,) int64,
    counted from 0.
    """
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
    low, high = (float(value) for value in x.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(
            f"x has nan or infinite values, first in image {bad}. Images lie in [0, 1]."
        )
    if low < 0 or high > 1:
        fix = (
            "divide by 255"
            if low >= 0
            else "undo the normalisation, which belongs inside the model"
        )
        raise DataError(
            f"x lies in [{low:g}, {high:g}]; images lie in [0, 1]. The likely fix: {fix}."
        )
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


def _dataset(name: str, read: Labelled, classes: int | None = None) -> Dataset:
    """Arrays as read, in any of the accepted layouts, to a checked ``Dataset``."""
    x = read.x
    labels = _labels(read.y, name)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"x of {name} is {x.dtype}; images are uint8, or float in [0, 1].")
    images = torch.from_numpy(
        np.ascontiguousarray(x, dtype=np.uint8 if x.dtype == np.uint8 else np.float32)
    )
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    images = images.to(torch.float32).div(255) if images.dtype == torch.uint8 else images
    names = read.classes or _CLASS_NAMES.get(name.removesuffix("-jpeg"))
    size = len(labels)
    return Dataset(
        name, read.split, images.contiguous(), labels, torch.arange(size), classes, size, names
    )


def _labels(y: np.ndarray, name: str) -> Tensor:
    if y.dtype.kind not in "iu":
        raise DataError(f"y of {name} is {y.dtype}; labels are whole numbers.")
    if y.ndim != 1:
        raise DataError(f"y of {name} has the shape {y.shape}; there is one label an image, (N,).")
    if y.dtype.kind == "u" and y.size and int(y.max()) > np.iinfo(np.int64).max:
        raise DataError(f"Labels of {name} run up to {int(y.max())}; labels count from 0.")
    return torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64))


def tensor_from(value: Any) -> Tensor:
    """A tensor, or what numpy takes for an array, as a tensor; byte order and strides are those of
    no matter which machine.
    """
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
