"""Arrays in ``.npz`` files: written whole or not at all, read without ever unpickling.

Damage is named as such.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import RecordError
from robustbench_lite.files.npz import read_arrays
from robustbench_lite.files.reading import ARRAYS_BYTES, Form
from robustbench_lite.records.files import write_bytes

_NPZ = Form(
    noun="file",
    what="no readable npz file of plain arrays, or was cut short or changed",
    most=ARRAYS_BYTES,
    error=RecordError,
    fix="Make it again with the command that wrote it.",
)


def write_npz(path: Path, **arrays: Any) -> None:
    """Write arrays to ``path``, compressed, in one step."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of ``path``.

    Raises:
        RecordError: no file is there, or it is truncated, damaged, no npz, or holds objects that
        would have to be unpickled.
    """
    return read_arrays(path, _NPZ)


def write_images(path: Path, broken: NDArray[np.bool_], x_adv: NDArray[np.float32]) -> None:
    """Write the adversarials of the ``broken`` (N,) samples, of all images (N, C, H, W).

    The arrays are ``position`` (M,) and ``x_adv`` (M, C, H, W).
    """
    position = np.flatnonzero(broken)
    write_npz(path, position=position, x_adv=x_adv[position])


def read_images(path: Path, broken: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What :func:`write_images` left of the ``broken`` (N,) samples, (M, C, H, W)."""
    arrays = read_npz(path)
    position = np.flatnonzero(broken)
    x_adv, stated = (arrays.get(name, np.zeros(0)) for name in ("x_adv", "position"))
    images = x_adv.dtype == np.float32 and x_adv.ndim == 4 and len(x_adv) == len(position)
    if not images or not np.array_equal(stated, position):
        raise RecordError(
            f"{path} does not hold the adversarials of the record beside it: {len(position)} "
            "float32 images, one for each broken sample. Run the same command with --fresh and "
            "--keep-adversarials."
        )
    return x_adv
