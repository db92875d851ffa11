"""When, where and with which versions a cell was measured."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from robustbench_lite.records.schema import Sparse

_PACKAGES = ("robustbench_lite", "torch", "torchvision", "numpy")


class Provenance(Sparse):
    """When, where and how a cell was measured; no part of key or digest."""

    created: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    device: str
    batch_size: int
    command: str
    versions: dict[str, str]
    partial: bool
    flags: list[str] = Field(default_factory=list)
    paths: list[str] | None = None
    """Which quicker ways the search took through the network; left out where it took none."""
    stage_seconds: list[float] | None = None
    """Time of each stage of a suite that ran; left out for single attacks."""
    numerics: dict[str, str] | None = None
    """On an accelerator the settings and libraries that its numbers depend on
    (``numerics.settings_of``); left out on a CPU.
    """


def make_provenance(
    *,
    seconds: float,
    device: str,
    batch_size: int,
    partial: bool,
    flags: Sequence[str] = (),
    paths: Sequence[str] = (),
    numerics: Mapping[str, str] | None = None,
    stage_seconds: Sequence[float] = (),
) -> Provenance:
    """Say where a cell or a certificate comes from that was finished now, by this process."""
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        device=device,
        batch_size=batch_size,
        command=_command(),
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        partial=partial,
        flags=list(flags),
        paths=list(paths) or None,
        stage_seconds=[round(one, 3) for one in stage_seconds] or None,
        numerics=None if numerics is None else dict(numerics),
    )


def _command() -> str:
    """The command line, without absolute paths: records are passed on.

    The program, and whatever lies at such a path, stand by their names alone.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join([Path(sys.argv[0]).name or "python", *words])


def torch_version() -> str:
    """The torch that is installed here, as records name it."""
    return _version("torch")


class Torches(NamedTuple):
    """Two versions of torch."""

    then: str
    now: str


def other_torch(made: Provenance) -> Torches | None:
    """The versions of torch that something was made under and that is here, if they differ."""
    then = made.versions.get("torch", "unknown")
    now = torch_version()
    return None if then == now else Torches(then, now)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
