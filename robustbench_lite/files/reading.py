"""Files from elsewhere: bounded before they are read, and never a traceback.

They are looked at before they are opened.

A reader says what it expects, and what to do with anything else; :func:`reading` turns whatever
goes wrong into its error. Imports neither torch nor numpy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.errors import RobustBenchError, UsageError

OPTIONS_BYTES = 2**20
"""A board or a file of options is written by hand: a thousand lines have 0.1 MB."""
CARD_BYTES = 2**24
"""A card has 100 bytes for each epoch of its curve."""
RECORD_BYTES = 2**30
"""A record has 20 bytes a sample, so this is more than ``MAX_SAMPLES`` need."""
WEIGHTS_BYTES = 2**36
"""64 GiB: the largest image classifiers have some 20 billion weights (ViT-22B, float16: 44 GB)."""
ARRAYS_BYTES = 2**37
"""128 GiB unpacked: the 100,000 test images of ImageNet, as float32, have 60 GB. What is more than
the memory of the machine is refused too, see :func:`require_memory`."""
MAX_SAMPLES = 2**24
"""16.7 million: ImageNet-21k, the largest labelled set that classifiers are tested on, has 14.2
million.
"""
MAX_INDEX = 2**53
"""The largest whole number that every reader of JSON takes for the same one."""
MAX_CLASSES = 100_000
"""ImageNet-21k has 21,841. A network has a row of weights for each class, and a label in a file
decides how many there are.
"""
MAX_PIXELS = 2**25
"""Of one image: 8192 x 4096, where classifiers look at 1024 x 1024 at most. A few bytes of PNG can
unpack to gigabytes.
"""
MAX_DEPTH = 100
"""Of nested tables and lists: ours are 8 deep. Readers recurse, and Python gives up at about 1,000.
"""
_REASON_LENGTH = 300
"""Characters of a library's message that are passed on: some of them quote the file."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a file should be, and what is said of one that is not.

    Its name, what its readers expect, how large it may be, and what to do with another.
    """

    noun: str
    what: str
    """What is expected, as in ``data.npz is no readable npz file of plain arrays``."""
    fix: str
    """What to do, a sentence."""
    most: int
    """Bytes."""
    error: type[UsageError]
    missing: str = ""
    """What to do where there is none, if that is something else."""


@contextmanager
def reading(path: Path, form: Form) -> Iterator[None]:
    """Look at ``path`` before it is opened, and explain whatever goes wrong inside.

    It becomes ``form.error``, with what was expected and found.

    Raises:
        UsageError: (``form.error``) no file, no regular one (a named pipe would block its reader),
        a larger one, or anything
            that its reader raised, but for this project's own errors, which pass.
    """
    require_file(path, form)
    with explain(str(path), form):
        yield


@contextmanager
def explain(where: str, form: Form) -> Iterator[None]:
    """:func:`reading` for what is no file of its own; ``where`` names it."""
    try:
        yield
    except RobustBenchError:
        raise
    except Exception as error:
        raise form.error(f"{where} is {form.what}: {reason_of(error)}. {form.fix}") from error


def require_file(path: Path, form: Form) -> None:
    """Raise ``form.error`` unless ``path`` is a regular file of at most ``form.most`` bytes.

    Opens nothing.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise form.error(f"No {form.noun} is at {path}. {form.missing or form.fix}") from error
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name that is none
        raise form.error(
            f"Cannot read the {form.noun} {str(path)!r}: {reason_of(error)}. {form.fix}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise form.error(f"{path} is {kind}; a {form.noun} is a regular file. {form.fix}")
    if found.st_size > form.most:
        raise form.error(
            f"{path} has {found.st_size:,} bytes; a {form.noun} has at most {form.most:,}. "
            f"{form.fix}"
        )


def read_bytes(path: Path, form: Form) -> bytes:
    """The content of ``path``."""
    with reading(path, form):
        return path.read_bytes()


def require_memory(needed: int, where: str, form: Form) -> None:
    """Raise ``form.error`` where ``needed`` bytes are more than arrays may have.

    Or than this machine has memory.
    """
    most = min(ARRAYS_BYTES, installed_memory())
    if needed > most:
        raise form.error(
            f"{where} unpacks to {needed:,} bytes; at most {most:,} are read here. {form.fix}"
        )


def installed_memory() -> int:
    """Bytes of memory that the machine has; ``ARRAYS_BYTES`` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return ARRAYS_BYTES


def below(root: Path, name: str, what: str, advice: str) -> Path:
    """The path of ``name``, which a file gave, below ``root``, which the user gave.

    Raises:
        UsageError: it is absolute, or leaves ``root`` by ``..`` or by a link.
    """
    path = Path(name)
    if not name or "\0" in name or name.startswith("~") or path.is_absolute() or ".." in path.parts:
        raise UsageError(
            f"{what} is {name!r}: a file may name others below {root} alone, by a relative path. "
            f"{advice}"
        )
    try:
        whole = (root / path).resolve()
        top = root.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise UsageError(
            f"{what} is {name!r}, which leads nowhere: {reason_of(error)}. {advice}"
        ) from error
    if not whole.is_relative_to(top):
        raise UsageError(
            f"{what} is {name!r}, a link that leaves {root}: a file may name others below it "
            f"alone. {advice}"
        )
    return root / path


def reason_of(error: BaseException) -> str:
    """What went wrong, in one short line without a full stop."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return (
            f"it asks for more memory than there is ({error})"
            if str(error)
            else "it asks for more memory than there is"
        )
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8 text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{error} is not in it"
    if callable(getattr(error, "errors", None)):  # pydantic's, without importing it
        first = error.errors()[0]  # type: ignore[attr-defined]
        where = ".".join(map(str, first["loc"])) or "the file"
        text = f"{where}: {first['msg'].removeprefix('Value error, ')}"
    else:
        text = str(error) or type(error).__name__
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}..."
