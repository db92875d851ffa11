"""Adversarial examples that a page shows: kept beside their records, drawn as PNG whose bytes are the same anywhere."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import CARD_BYTES, MAX_PIXELS, Form
from robustbench_lite.files.text import read_model
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.pictures import difference
from robustbench_lite.records.files import write_text
from robustbench_lite.records.outcomes import Strict
from robustbench_lite.records.seal import seal_of

FORMAT_VERSION = 2
"""Version 1 had no seal."""
_EXAMPLES = Form(
    noun="gallery", what="a file of examples that cannot be read", most=4 * CARD_BYTES, error=RecordError,
    fix="Delete it and run `rbl leaderboard run`.",
)  # fmt: skip


Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class Example(Strict):
    """One adversarial example; arrays in base64."""

    id: int
    before: str
    """Class that the network gives the clean image, and the adversarial."""
    after: str
    shape: tuple[Side, Side, Side]
    clean: str
    """uint8."""
    delta: str
    """Adversarial minus clean, little-endian float16."""


class Examples(Strict):
    """The file of a cell."""

    format_version: int = FORMAT_VERSION
    key: str
    digest: str
    examples: list[Example] = Field(min_length=1)
    seal: str = ""

    def sealed(self) -> Examples:
        """The same with the seal that belongs to it."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


class Picture(NamedTuple):
    """One example as the page shows it."""

    caption: str
    sample: int
    before: str
    after: str
    width: int
    height: int
    images: list[tuple[str, str]]
    """What it is, and a data URL: clean image, adversarial, difference."""


def example(sample: int, before: str, after: str, x: NDArray[np.float32], x_adv: NDArray[np.float32]) -> Example:
    """From images (C, H, W) in [0, 1]."""
    channels, height, width = x.shape
    return Example(
        id=sample, before=before, after=after, shape=(channels, height, width),
        clean=_base64((x * 255).round().astype(np.uint8).tobytes()), delta=_base64((x_adv - x).astype("<f2").tobytes()),
    )  # fmt: skip


def write_examples(path: Path, found: Found, examples: list[Example]) -> None:
    """Write the file that belongs to the record ``found``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, Examples(key=found.record.key, digest=found.record.digest, examples=examples))


def migrate_examples(path: Path, found: Found) -> bool:
    """Seal the file of ``found``, if it is of version 1 and shows what the record says; True if it was written."""
    content = read_model(path, _EXAMPLES, Examples)
    if content.format_version != 1:
        read_examples(path, found)
        return False
    content = content.model_copy(update={"format_version": FORMAT_VERSION})
    _check(path, content.sealed(), found)
    _write(path, content)
    return True


def _write(path: Path, content: Examples) -> None:
    content = content.sealed()
    write_text(path, json.dumps(content.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


def read_examples(path: Path, found: Found) -> Examples:
    """Read the file of ``found``; a RecordError if it belongs to another record, or shows what that does not say."""
    content = read_model(path, _EXAMPLES, Examples)
    _check(path, content, found)
    return content


def _check(path: Path, content: Examples, found: Found) -> None:
    if content.format_version != FORMAT_VERSION:
        raise RecordError(
            f"{path.name} is of format version {content.format_version}; known is {FORMAT_VERSION} (version 1 becomes that by "
            "`rbl leaderboard migrate`)"
        )
    if content.seal != content.sealed().seal:
        raise RecordError(f"{path.name} was changed: its seal does not agree with its contents")
    if (content.key, content.digest) != (found.record.key, found.record.digest):
        raise RecordError(f"{path.name} is not of the record as it stands: its key or digest is another")
    broken = set(found.record.identity.data.ids()[found.arrays.broken].tolist())
    for shown in content.examples:
        if shown.id not in broken:
            raise RecordError(f"{path.name} shows sample {shown.id}, which the record does not call broken")
        arrays(shown)


def arrays(shown: Example) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The clean image and the adversarial, (C, H, W)."""
    try:
        clean = np.frombuffer(base64.b64decode(shown.clean, validate=True), np.uint8).reshape(shown.shape)
        delta = np.frombuffer(base64.b64decode(shown.delta, validate=True), "<f2").reshape(shown.shape)
    except ValueError as error:
        raise RecordError(f"the images of sample {shown.id} are damaged: {error}") from error
    x = clean.astype(np.float32) / np.float32(255)
    return x, np.clip(x + delta.astype(np.float32), 0, 1, dtype=np.float32)


def pictures(caption: str, content: Examples) -> list[Picture]:
    """What the page shows of one cell."""
    shown = []
    for one in content.examples:
        x, x_adv = arrays(one)
        magnified, factor = difference(x_adv, x)
        images = [("clean image", x), ("adversarial", x_adv), (f"difference times {factor:.3g}", magnified)]
        sources = [(kind, f"data:image/png;base64,{_base64(png(image))}") for kind, image in images]
        shown.append(Picture(caption, one.id, one.before, one.after, one.shape[2], one.shape[1], sources))
    return shown


def png(image: NDArray[np.float32]) -> bytes:
    """(C, H, W) in [0, 1], C = 1 or 3, as PNG.

    Stored, not compressed: the bytes that a compressor gives depend on its version.
    """
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    channels, height, width = pixels.shape
    if channels not in (1, 3):
        pixels, channels = pixels.mean(0, keepdims=True).round().astype(np.uint8), 1
    lines = pixels.transpose(1, 2, 0).reshape(height, width * channels)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", _stored(raw)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(raw: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4)."""
    size = 0xFFFF
    parts = [raw[start : start + size] for start in range(0, len(raw), size)] or [b""]
    blocks = [
        struct.pack("<BHH", number == len(parts) - 1, len(part), len(part) ^ 0xFFFF) + part for number, part in enumerate(parts)
    ]
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
