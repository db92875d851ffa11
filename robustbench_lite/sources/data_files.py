"""Read images and labels from files, as arrays.

They come as npz, folders, parquet, and the files of torchvision's sets.

The files may come from anyone: each is looked at before it is opened, and bounded before it is
unpacked.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustbench_lite.errors import DataError, MissingDependency
from robustbench_lite.files.npz import read_arrays
from robustbench_lite.files.reading import (
    ARRAYS_BYTES,
    MAX_PIXELS,
    MAX_SAMPLES,
    Form,
    explain,
    reading,
    require_memory,
)

NPZ = Form(
    noun="file",
    what="no readable npz file of plain arrays",
    most=ARRAYS_BYTES,
    error=DataError,
    fix="Write it with numpy.savez_compressed(path, x=x, y=y).",
)
_IMAGE = Form(
    noun="image",
    what="no readable image",
    most=2**30,
    error=DataError,
    fix=(
        "Mend it or take it out: a folder of images has PNG, JPEG, BMP, PPM, TIFF or WebP files in "
        "one sub-folder a class."
    ),
)
_FOLDER = Form(
    noun="folder",
    what="cannot be read as images in one sub-folder a class",
    most=0,
    error=DataError,
    fix="Name a folder with one sub-folder a class, in it or in its train and test.",
)
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
"""What is decoded by what is inside, whatever a file is called: of PostScript, say, Pillow would
run the program.
"""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Labelled(NamedTuple):
    """Images and labels as a file has them."""

    x: np.ndarray
    y: np.ndarray
    split: str
    classes: tuple[str, ...] | None = None


def from_npz(path: Path, split: str) -> Labelled:
    """Read the arrays of one split, else those of all samples."""
    there = read_arrays(path, NPZ, ("x", "y", f"x_{split}", f"y_{split}"))
    keys = (f"x_{split}", f"y_{split}") if f"x_{split}" in there else ("x", "y")
    if not all(key in there for key in keys):
        raise DataError(
            f"{path} lacks the arrays that it needs: x and y, or x_{split} and y_{split}. {NPZ.fix}"
        )
    return Labelled(there[keys[0]], there[keys[1]], split if keys[0] != "x" else "all")


def from_folder(path: Path, split: str) -> Labelled:
    """Read the images of the sub-folders, one a class, in the order of their names."""
    inner = path / split
    with explain(str(path), _FOLDER):
        top = inner if inner.is_dir() else path
        names = sorted(entry.name for entry in os.scandir(top) if entry.is_dir())
        if not names:
            raise ValueError("it has no sub-folder")
        images: list[np.ndarray] = []
        labels: list[int] = []
        size = 0
        for label, name in enumerate(names):
            files = list(image_files(top / name))
            if not files:
                raise ValueError(f"{name} holds no image")
            for file in files:
                with reading(file, _IMAGE):
                    images.append(_read_image(file))
                labels.append(label)
                size += images[-1].nbytes
            require_memory(4 * size, str(path), _FOLDER)  # as float32
    found = split if inner.is_dir() else "all"
    return Labelled(_stack(images, path), np.asarray(labels), found, tuple(names))


def image_files(folder: Path) -> Iterator[Path]:
    """List the files with the suffix of an image, at any depth, in a fixed order.

    A folder inside of itself is refused.
    """
    found: list[tuple[str, list[str]]] = []
    waiting = [(str(folder), [_inode(folder)])]
    total = 0
    while waiting:
        here, above = waiting.pop()
        entries = list(os.scandir(here))
        found.append((here, sorted(entry.name for entry in entries if not entry.is_dir())))
        total += len(entries)
        if total > MAX_SAMPLES:
            raise DataError(f"{folder} holds more than {MAX_SAMPLES:,} files. {_FOLDER.fix}")
        for entry in entries:
            if entry.is_dir():
                who = _inode(Path(entry.path))
                if who in above:
                    raise DataError(
                        f"{entry.path} is a link to a folder that it lies in. Take the link out."
                    )
                waiting.append((entry.path, [*above, who]))
    for here, names in sorted(found):
        yield from (Path(here) / name for name in names if name.lower().endswith(_SUFFIXES))


class _Inode(NamedTuple):
    """What a folder is, by whatever path it is reached."""

    device: int
    number: int


def _inode(folder: Path) -> _Inode:
    found = folder.stat()
    return _Inode(found.st_dev, found.st_ino)


def from_parquet(path: Path, name: str, split: str) -> Labelled:
    """Read the columns ``img`` (encoded images) and ``label``."""
    form = Form(
        noun="file",
        what=f"no parquet file of {name} ({split}), with the columns img and label",
        most=ARRAYS_BYTES,
        error=DataError,
        fix=(
            f"Name the folder DIR of DIR/{name}/{split}.parquet (columns img and label) with "
            "--data-dir."
        ),
    )
    with reading(path, form):
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingDependency(
                f"{name} needs pyarrow: pip install 'robustbench_lite[parquet]'."
            ) from error
        with parquet.ParquetFile(path) as file:
            about = file.metadata
            if about.num_rows > MAX_SAMPLES:
                raise ValueError(
                    f"it has {about.num_rows:,} rows; at most {MAX_SAMPLES:,} are read"
                )
            groups = (about.row_group(number) for number in range(about.num_row_groups))
            require_memory(sum(group.total_byte_size for group in groups), str(path), form)
            columns = file.read(columns=["img", "label"]).to_pydict()
        images = [_read_image(io.BytesIO(image["bytes"])) for image in columns["img"]]
        labels = np.asarray(columns["label"])
    return Labelled(_stack(images, path), labels, split)


def from_torchvision(
    name: str, kind: str, split: str, root: Path, download: bool, layout: str
) -> Labelled:
    """The set that torchvision calls ``kind``; ``layout`` says where it looks for what."""
    import torchvision

    how = "The download failed: without a network, put" if download else "Add --download, or put"
    form = Form(
        noun="data set",
        what=f"no folder that {name} ({split}) can be read from",
        most=0,
        error=DataError,
        fix=f"{how} {layout} there.",
    )
    with explain(str(root), form):
        source = getattr(torchvision.datasets, kind)(
            str(root), train=split == "train", download=download
        )
        return Labelled(np.asarray(source.data), np.asarray(source.targets), split)


def _read_image(source: Any) -> np.ndarray:
    """One image as uint8, (H, W, 1) for grey and (H, W, 3) for colour."""
    from PIL import Image

    with Image.open(source, formats=_FORMATS) as image:  # reads the header alone
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"it has {image.width:,} x {image.height:,} pixels; at most {MAX_PIXELS:,} are "
                "decoded"
            )
        grey = image.mode in ("1", "L")
        pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    return pixels[:, :, None] if grey else pixels


def _stack(images: Iterable[np.ndarray], path: Path) -> np.ndarray:
    try:
        return np.stack(list(images)).transpose(0, 3, 1, 2)  # (N, C, H, W)
    except ValueError as error:
        raise DataError(
            f"The images of {path} differ in size or channels: bring them to one shape."
        ) from error
