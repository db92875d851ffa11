"""Writing files so that a kill, a full disk or a second process never leaves half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from robustbench_lite.errors import RecordError


def write_text(path: Path, text: str) -> None:
    """Write ``path`` in one step: a temporary file beside it, flushed to disk, then renamed."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """See :func:`write_text`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise RecordError(f"Cannot write {path}: {error.strerror}. Free some space or choose another folder.") from error


def require_writable(directory: Path, need_bytes: int, option: str = "--output") -> None:
    """Create ``directory`` and prove, before any work, that ``need_bytes`` can be written there; ``option`` names another."""
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
            f"The output folder {directory} has {free / 1e6:.0f} MB free; this run may need {need_bytes / 1e6:.0f} MB. "
            f"Free some space or choose another one with {option} DIR."
        )
