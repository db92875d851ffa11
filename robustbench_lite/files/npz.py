"""Arrays of ``.npz`` files, bounded by their headers before anything is unpacked.

Nothing here ever unpickles.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from robustbench_lite.files.reading import Form, reading, require_memory

MAX_MEMBERS = 1000
"""Arrays of a file: ours hold nine. The list of them is read before any of them is."""
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = "biufcSUV"
"""Kinds of arrays that are plain bytes; what is of use is for the reader to say."""


def read_arrays(
    path: Path, form: Form, names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of ``path``, or those of ``names`` that it has."""
    with reading(path, form), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        require_members(archive, form, path)
        found: dict[str, NDArray[Any]] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.filename.endswith(".npy") and (names is None or name in names):
                found[name] = _array(archive, info)
        return found


def require_members(
    archive: zipfile.ZipFile, form: Form, path: Path, most: int = MAX_MEMBERS
) -> None:
    """Raise ``form.error`` where an archive promises more than there may be.

    Its directory says so; nothing is unpacked.
    """
    members = archive.infolist()
    if len(members) > most:
        raise form.error(
            f"{path} has {len(members):,} members; at most {most:,} are read. {form.fix}"
        )
    require_memory(sum(info.file_size for info in members), str(path), form)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One member. Its header must agree with the directory, by which memory was granted."""
    if info.compress_type not in _PLAIN:
        raise ValueError(f"{info.filename} is packed in a way that numpy does not write")
    with archive.open(info) as member:
        shape, dtype = _header(member)
        if dtype.hasobject or dtype.kind not in _KINDS:
            raise ValueError(f"{info.filename} holds {dtype}, no plain numbers")
        if member.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(
                f"{info.filename} says that it is {dtype} of shape {shape}, and has "
                f"{info.file_size:,} bytes"
            )
    with archive.open(info) as member:
        return npy.read_array(member, allow_pickle=False)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format is {version}, not 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(member)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, dtype
