"""Adversarial examples as a page shows them: PNG whose bytes are the same anywhere."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.examples import Example, Examples
from robustbench_lite.verification.pictures import magnify_difference


class Image(NamedTuple):
    """What is to be seen, and where it is from: a data URL."""

    kind: str
    source: str


class Picture(NamedTuple):
    """One example as the page shows it."""

    caption: str
    sample: int
    before: str
    after: str
    width: int
    height: int
    images: list[Image]
    """Clean image, adversarial, difference."""


def pictures(caption: str, content: Examples) -> list[Picture]:
    """What the page shows of one cell."""
    return [_picture(caption, example) for example in content.examples]


def _picture(caption: str, example: Example) -> Picture:
    x, x_adv = example.images()
    change = magnify_difference(x_adv, x)
    _, height, width = example.shape
    images = [
        _image("clean image", x),
        _image("adversarial", x_adv),
        _image(f"difference times {change.factor:.3g}", change.picture),
    ]
    return Picture(caption, example.id, example.before, example.after, width, height, images)


def _image(kind: str, pixels: NDArray[np.float32]) -> Image:
    content = base64.b64encode(png(pixels)).decode("ascii")
    return Image(kind, f"data:image/png;base64,{content}")


def png(image: NDArray[np.float32]) -> bytes:
    """(C, H, W) in [0, 1], C = 1 or 3, as PNG.

    Stored, not compressed: the bytes that a compressor gives depend on its version.
    """
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    channels, height, width = pixels.shape
    if channels not in (1, 3):
        pixels = pixels.mean(0, keepdims=True).round().astype(np.uint8)
        channels = 1
    lines = pixels.transpose(1, 2, 0).reshape(height, width * channels)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", _store(raw)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _store(raw: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4)."""
    size = 0xFFFF
    parts = [raw[start : start + size] for start in range(0, len(raw), size)] or [b""]
    blocks = [
        struct.pack("<BHH", number == len(parts) - 1, len(part), len(part) ^ 0xFFFF) + part
        for number, part in enumerate(parts)
    ]
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))
