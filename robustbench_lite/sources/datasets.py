"""Images and labels: the bundled slice, torchvision's sets, and a user's own files, all as one ``Dataset``."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import DataError, MissingDependency, UnknownNameError

Split = Literal["train", "test"]
BUNDLED = ("fashion_mnist", "mnist")
"""Their first 1,000 images of each split come with the package: Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence,
Zalando SE) and MNIST (LeCun et al. 1998; CC BY-SA 3.0, Yann LeCun and Corinna Cortes)."""
_TORCHVISION = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST", "mnist": "MNIST"}
_LAYOUT = {
    "cifar10": "cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta",
    "fashion_mnist": "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
    "mnist": "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
}
_CLASS_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
NOTES = {"cifar10-jpeg": "JPEG copies (quality 75) of CIFAR-10, in another order: no figure on them is one on CIFAR-10"}
"""What must stand beside every figure on a data set."""
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
        """SHA-256 over shape, images and labels: equal content, from whatever file, has an equal fingerprint."""
        digest = hashlib.sha256(repr(tuple(self.x.shape)).encode())
        digest.update(self.x.contiguous().numpy().data)
        digest.update(self.y.contiguous().numpy().data)
        return digest.hexdigest()

    def first(self, limit: int) -> Dataset:
        """The first ``limit`` samples."""
        if not 1 <= limit <= len(self):
            raise DataError(f"limit is {limit}; {self.name} ({self.split}) has {len(self):,} images.")
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
        spec: ``fashion_mnist``, ``mnist``, ``cifar10``, ``cifar10-jpeg`` (JPEG copies: never report them as CIFAR-10),
            ``npz:FILE`` (arrays x, y, or x_train, y_train, x_test, y_test; float in [0, 1] or uint8; NCHW, NHWC or
            NHW) or ``folder:DIR`` (a sub-folder a class, in DIR or in DIR/train and DIR/test).
        limit: keep the first ``limit`` samples; a shorter set is ``partial``.
        data_dir: where torchvision keeps its files; default ``$RBL_DATA_DIR``, else the user's cache. ``fashion_mnist`` and
            ``mnist`` with neither given are the bundled slices, ``test[:1000]`` or ``train[:1000]``.
        download: let torchvision fetch what is not there.
        bundled: the slice that comes with the package, wherever other copies lie.

    Raises:
        DataError: nothing there, damaged, or not images in [0, 1] with labels; the message says what to put where.
        UnknownNameError: no data set has that name.
    """
    if split not in ("train", "test"):
        raise UnknownNameError("split", split, ("train", "test"))
    root = data_root(data_dir)
    given = data_dir or os.environ.get("RBL_DATA_DIR")
    if bundled and spec not in BUNDLED:
        raise DataError(f"No images of {spec} come with the package, only those of {' and '.join(BUNDLED)}.")
    bundled = bundled or (spec in BUNDLED and not given and not download)
    if bundled and limit is not None and limit > 1000:
        raise DataError(
            f"limit is {limit}, and the bundled slice of {spec} has 1,000 images. "
            "For all of them add --download, or --data-dir with a folder that has them."
        )
    if bundled:
        data = _from_npz(bundled_file(spec, split), spec, split)
        data = replace(data, split=f"{split}[:1000]", classes=10)
    elif spec.startswith("npz:"):
        data = _from_npz(Path(spec.removeprefix("npz:")).expanduser(), spec, split)
    elif spec.startswith("folder:"):
        data = _from_folder(Path(spec.removeprefix("folder:")).expanduser(), spec, split)
    elif spec == "cifar10-jpeg":
        data = _from_parquet(root / "cifar10-jpeg" / f"{split}.parquet", spec, split)
    elif spec in _TORCHVISION:
        data = _from_torchvision(spec, split, root, download)
    else:
        raise UnknownNameError("data set", spec, NAMES)
    return data if limit is None else data.first(limit)


def can_download(name: str) -> bool:
    """torchvision can fetch the data set."""
    return name in _TORCHVISION


def bundled_file(name: str, split: str) -> Path:
    """Where the slice of a bundled data set lies."""
    return Path(str(files("robustbench_lite") / "data" / f"{name}_{split}_1000.npz"))


def data_root(data_dir: str | Path | None = None) -> Path:
    """Where data is looked for: ``data_dir``, else ``$RBL_DATA_DIR``, else the user's cache."""
    given = data_dir or os.environ.get("RBL_DATA_DIR")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "robustbench_lite" / "data"


def check_data(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """Raise ``DataError`` unless ``x`` is (N, C, H, W) float32 in [0, 1] and ``y`` (N,) int64, counted from 0."""
    if x.dim() != 4:
        raise DataError(f"x has the shape {tuple(x.shape)}; images are (N, C, H, W). One image is x.unsqueeze(0).")
    if x.numel() == 0 or y.numel() == 0:
        raise DataError(f"There are no samples: x has the shape {tuple(x.shape)}, y {tuple(y.shape)}.")
    if x.dtype == torch.uint8:
        raise DataError("x is uint8; images are float32 in [0, 1]. Convert and divide by 255: x.float() / 255.")
    if x.dtype != torch.float32:
        raise DataError(f"x is {x.dtype}; images are float32 in [0, 1]. Convert them with x.float().")
    if y.dtype != torch.int64 or y.dim() != 1:
        raise DataError(f"y is {y.dtype} of shape {tuple(y.shape)}; labels are (N,) int64. Convert them with y.long().")
    if len(x) != len(y):
        raise DataError(f"There are {len(x)} images and {len(y)} labels; each image needs one.")
    low, high = (float(value) for value in x.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(f"x has nan or infinite values, first in image {bad}. Images lie in [0, 1].")
    if low < 0 or high > 1:
        fix = "divide by 255" if low >= 0 else "undo the normalisation, which belongs inside the model"
        raise DataError(f"x lies in [{low:g}, {high:g}]; images lie in [0, 1]. The likely fix: {fix}.")
    smallest, largest = int(y.min()), int(y.max())
    if smallest < 0 or (classes is not None and largest >= classes):
        allowed = f"0 to {classes - 1}" if classes is not None else "0 and up"
        raise DataError(f"Labels run from {smallest} to {largest}; {allowed} is allowed. Labels count from 0.")


def _from_torchvision(name: str, split: Split, root: Path, download: bool) -> Dataset:
    import torchvision

    try:
        source = getattr(torchvision.datasets, _TORCHVISION[name])(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        how = "The download failed: without a network, put" if download else "Add --download, or put"
        raise DataError(f"Cannot read {name} ({split}) from {root}. {how} {_LAYOUT[name]} there. ({error})") from error
    return _dataset(name, split, np.asarray(source.data), np.asarray(source.targets), classes=10)


def _from_npz(path: Path, name: str, split: Split) -> Dataset:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys = (f"x_{split}", f"y_{split}") if f"x_{split}" in arrays else ("x", "y")
            x, y = (arrays[key] for key in keys)
    except FileNotFoundError as error:
        raise DataError(f"No file is at {path}. Write it with numpy.savez_compressed(path, x=x, y=y).") from error
    except KeyError as error:
        raise DataError(f"{path} lacks the arrays that it needs: x and y, or x_{split} and y_{split}.") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no readable npz file of plain arrays. Write it with numpy.savez_compressed(path, x=x, y=y)."
        ) from error
    except (OSError, EOFError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is no readable npz file of plain arrays: {error}.") from error
    return _dataset(name, split if keys[0] != "x" else "all", x, y)


def _from_folder(path: Path, name: str, split: Split) -> Dataset:
    from torchvision.datasets import ImageFolder

    inner = path / split
    try:
        source = ImageFolder(str(inner if inner.is_dir() else path), loader=_read_image)
        images = [image for image, _ in source]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as images in one sub-folder a class: {error}") from error
    found = split if inner.is_dir() else "all"
    data = _dataset(name, found, _stack(images, path), np.asarray(source.targets), len(source.classes))
    return replace(data, class_names=tuple(source.classes))


def _from_parquet(path: Path, name: str, split: Split) -> Dataset:
    if not path.is_file():
        raise DataError(
            f"No file is at {path}. Name the folder DIR of DIR/{name}/{split}.parquet (columns img and label) with --data-dir."
        )
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(f"{name} needs pyarrow: pip install 'robustbench_lite[parquet]'.") from error
    import io

    try:
        columns = parquet.read_table(path).to_pydict()
        images = [_read_image(io.BytesIO(image["bytes"])) for image in columns["img"]]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{name} ({split}) is read from {path}, with the columns img and label: {error}") from error
    return _dataset(name, split, _stack(images, path), np.asarray(columns["label"]), classes=10)


def _read_image(source: Any) -> np.ndarray:
    """One image as uint8, (H, W, 1) for grey and (H, W, 3) for colour."""
    from PIL import Image

    with Image.open(source) as image:
        grey = image.mode in ("1", "L")
        pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    return pixels[:, :, None] if grey else pixels


def _stack(images: Iterable[np.ndarray], path: Path) -> np.ndarray:
    try:
        return np.stack(list(images)).transpose(0, 3, 1, 2)  # (N, C, H, W)
    except ValueError as error:
        raise DataError(f"The images of {path} differ in size or channels: bring them to one shape.") from error


def _dataset(name: str, split: str, x: np.ndarray, y: np.ndarray, classes: int | None = None) -> Dataset:
    """Arrays as read, in any of the accepted layouts, to a checked ``Dataset``."""
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"y of {name} is {y.dtype}; labels are whole numbers.")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"x of {name} is {x.dtype}; images are uint8, or float in [0, 1].")
    images, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64))
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    images = images.to(torch.float32).div(255) if images.dtype == torch.uint8 else images.to(torch.float32)
    names = _CLASS_NAMES.get(name.removesuffix("-jpeg"))
    return Dataset(name, split, images.contiguous(), labels, torch.arange(len(labels)), classes, len(labels), names)
