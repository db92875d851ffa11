"""Load a data set by its name: the bundled slice, torchvision's sets, or a user's own files."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import DataError, UnknownNameError
from robustbench_lite.files.reading import below
from robustbench_lite.sources.data_files import (
    Labelled,
    from_folder,
    from_npz,
    from_parquet,
    from_torchvision,
)
from robustbench_lite.sources.dataset import Dataset, Split

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
        "JPEG copies (quality 75) of CIFAR-10, in another order: no figure on them is one on "
        "CIFAR-10"
    )
}
"""What must stand beside every figure on a data set."""
_FILES = ("npz:", "folder:")
NAMES = (*sorted((*_TORCHVISION, "cifar10-jpeg")), "npz:FILE", "folder:DIR")


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
            what to put where.
        UnknownNameError: no data set has that name.
    """
    if split not in ("train", "test"):
        raise UnknownNameError("split", split, ("train", "test"))
    if bundled and spec not in BUNDLED:
        raise DataError(
            f"No images of {spec} come with the package, only those of {' and '.join(BUNDLED)}."
        )
    if bundled or (spec in BUNDLED and not given_root(data_dir) and not download):
        if limit is not None and limit > 1000:
            raise DataError(
                f"limit is {limit}, and the bundled slice of {spec} has 1,000 images. "
                "For all of them add --download, or --data-dir with a folder that has them."
            )
        data = _from_package(spec, split)
    elif spec.startswith(_FILES):
        data = _from_path(spec, Path(spec.partition(":")[2]), split)
    else:
        data = _from_root(spec, split, data_root(data_dir), download)
    return data if limit is None else data.first(limit)


def _from_package(name: str, split: Split) -> Dataset:
    """Read the slice that comes with the package."""
    read = from_npz(bundled_file(name, split), split)
    return _dataset(name, read._replace(split=f"{split}[:1000]"), classes=10)


def _from_root(name: str, split: Split, root: Path, download: bool) -> Dataset:
    """Read a whole data set, from where data is kept."""
    if name == "cifar10-jpeg":
        read = from_parquet(root / name / f"{split}.parquet", name, split)
    elif name in _TORCHVISION:
        read = from_torchvision(name, _TORCHVISION[name], split, root, download, _LAYOUT[name])
    else:
        raise UnknownNameError("data set", name, NAMES)
    return _dataset(name, read, classes=10)


def load_named(
    name: str,
    root: str | Path | None,
    *,
    split: Split = "test",
    data_dir: str | Path | None = None,
    download: bool = False,
    bundled: bool = False,
) -> Dataset:
    """Read the data set that a file names: a record, or a board.

    Args:
        name: as :func:`load_dataset` takes it.
        root: the only folder that a user's own images are looked for in.
        split, data_dir, download, bundled: as :func:`load_dataset` takes them.

    Raises:
        DataError: besides those of :func:`load_dataset`, the name has a path, and no ``root`` was
            given.
        UsageError: the path leaves ``root``.
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
    own = below(Path(os.path.expanduser(root)), path, "The data set", advice)
    return _from_path(name, own, split)


def _from_path(name: str, path: Path, split: Split) -> Dataset:
    """Read a user's own images, called ``name``."""
    path = Path(os.path.expanduser(path))
    if name.startswith("npz:"):
        return _dataset(name, from_npz(path, split))
    read = from_folder(path, split)
    return _dataset(name, read, len(read.classes or ()))


def can_download(name: str) -> bool:
    """Whether torchvision can fetch the data set."""
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
    if given is None:
        return Path.home() / ".cache" / "robustbench_lite" / "data"
    return Path(os.path.expanduser(given))


def _dataset(name: str, read: Labelled, classes: int | None = None) -> Dataset:
    """Make a checked ``Dataset`` of arrays as read, in any of the accepted layouts."""
    labels = _labels(read.y, name)
    images = _images(read.x, name)
    names = read.classes or _CLASS_NAMES.get(name.removesuffix("-jpeg"))
    size = len(labels)
    return Dataset(name, read.split, images, labels, torch.arange(size), classes, size, names)


def _images(x: np.ndarray, name: str) -> Tensor:
    """(N, C, H, W) float32, of uint8 or floats; NHW and NHWC are told by their shape."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"x of {name} is {x.dtype}; images are uint8, or float in [0, 1].")
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32
    images = torch.from_numpy(np.ascontiguousarray(x, dtype=dtype))
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    images = images.to(torch.float32).div(255) if images.dtype == torch.uint8 else images
    return images.contiguous()  # (N, C, H, W)


def _labels(y: np.ndarray, name: str) -> Tensor:
    """(N,) int64, of whole numbers."""
    if y.dtype.kind not in "iu":
        raise DataError(f"y of {name} is {y.dtype}; labels are whole numbers.")
    if y.ndim != 1:
        raise DataError(f"y of {name} has the shape {y.shape}; there is one label an image, (N,).")
    if y.dtype.kind == "u" and y.size and int(y.max()) > np.iinfo(np.int64).max:
        raise DataError(f"Labels of {name} run up to {int(y.max())}; labels count from 0.")
    return torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64))
