"""Writing records: the files themselves, and the proof that there is room for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from robustbench_lite.errors import RecordError
from robustbench_lite.files.writing import write_bytes as write_bytes
from robustbench_lite.files.writing import write_text as write_text

REPLACED = "replaced"
"""Folder of the records of networks that others, with the same key, have taken the place of."""


def set_aside(path: Path, digest: str) -> None:
    """Move a record, and its images, to where replaced ones are kept.

    ``FOLDER/<kind>/<key>.json`` becomes ``FOLDER/replaced/<key>-<8 digits of digest>.json``.
    """
    folder = path.parent.parent / REPLACED
    try:
        folder.mkdir(exist_ok=True)
        # The record last: killed in between, the next run finds it and goes on.
        for file in (path.with_suffix(".npz"), path):
            with contextlib.suppress(FileNotFoundError):  # there is none, or another run was faster
                file.replace(folder / f"{path.stem}-{digest[:8]}{file.suffix}")
    except OSError as error:
        raise RecordError(f"Cannot move {path} to {folder}: {error.strerror}.") from error


def require_writable(directory: Path, need_bytes: int, option: str = "--output") -> None:
    """Create ``directory``, and prove that ``need_bytes`` can be written there before any work.

    ``option`` names another one in the message.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = f"Cannot write to the output folder {directory}: {error.strerror}."
        raise RecordError(f"{reason} Choose another one with {option} DIR.") from error
    free = shutil.disk_usage(directory).free
    if free < need_bytes:
        raise RecordError(
            f"The output folder {directory} has {free / 1e6:.0f} MB free; this run may need "
            f"{need_bytes / 1e6:.0f} MB. Free some space or choose another one with {option} DIR."
        )
