"""What is known of one sample, of a cell or of a certificate: the rows of the journal."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import Form

JOURNAL = Form(
    noun="journal",
    what="a journal that is damaged",
    most=2**40,
    error=RecordError,
    fix="Delete it and run the same command again, or run with --fresh.",
)
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Outcome(NamedTuple):
    """What is known of one sample of a cell."""

    position: Count
    broken: bool
    unconfirmed: bool
    distance: float | None
    forward: Count
    backward: Count
    x_adv: bytes | None = None
    """The adversarial as little-endian float32, when it was asked for."""

    def seal(self, key: str) -> str:
        """Hash the row together with the key of its cell, which ties one to the other."""
        content = repr((key, *self[:6])).encode() + (self.x_adv or b"")
        return hashlib.sha256(content).hexdigest()[:16]


class NearMiss(NamedTuple):
    """The point nearest to success that a stage of a suite has seen around one sample."""

    position: Count
    margin: float
    x: bytes
    """As little-endian float32."""

    def seal(self, key: str) -> str:
        """Hash the row together with the key of its stage, which ties one to the other."""
        content = repr((key, self.position, self.margin)).encode() + self.x
        return hashlib.sha256(content).hexdigest()[:16]


class Proof(NamedTuple):
    """What is known of one sample of a certificate."""

    position: Count
    margin: float
    stage: str

    def seal(self, key: str) -> str:
        """Hash the row together with the key of its certificate, which ties one to the other."""
        return hashlib.sha256(repr((key, *self)).encode()).hexdigest()[:16]


def stage_key(key: str, number: int) -> str:
    """Name what a stage of the cell ``key`` leaves in the journal."""
    return f"{key}/{number}"


def image_bytes(x: NDArray[np.float32]) -> bytes:
    """Write one image as little-endian float32."""
    return x.astype("<f4").tobytes()


def image_from_bytes(raw: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read what :func:`image_bytes` has written of an image of ``shape`` (C, H, W)."""
    if len(raw) != 4 * math.prod(shape):
        raise RecordError(
            f"An image of the journal has {len(raw):,} bytes; those of the data are {shape}. "
            f"{JOURNAL.fix}"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
