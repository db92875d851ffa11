"""Writing files so that a kill, a full disk or a second process never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from robustbench_lite.errors import RecordError, UsageError


def write_text(path: Path, text: str) -> None:
    """Write ``path`` in one step: a temporary file beside it, flushed to disk, then renamed."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """See :func:`write_text`."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, error: type[UsageError] = RecordError) -> Iterator[IO[bytes]]:
    """Open a file to write to, which takes the place of ``path`` at the end.

    Until then its name is its writer's alone.

    Raises:
        UsageError: (``error``) it cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(
            f"Cannot write {path}: {reason}. Free some space or choose another folder."
        ) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
