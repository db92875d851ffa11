"""Writing records: the files themselves, and the proof that there is room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from robustbench_lite.errors import RecordError
from robustbench_lite.files.writing import write_bytes as write_bytes
from robustbench_lite.files.writing import write_text as write_text


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
