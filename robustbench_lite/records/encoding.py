"""Outcomes of samples as text: bitsets for verdicts, little-endian arrays for numbers.

Both are written in base64.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import RecordError


def pack_bits(bits: NDArray[np.bool_]) -> str:
    """(N,) bool to base64; sample i is bit i % 8, lowest first, of byte i // 8."""
    return base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode("ascii")


def unpack_bits(text: str, n: int) -> NDArray[np.bool_]:
    """Read what :func:`pack_bits` has written.

    The length must be that of ``n`` bits, and the spare bits 0.
    """
    raw = np.frombuffer(_decode(text, (n + 7) // 8, "bitset"), dtype=np.uint8)
    bits = np.unpackbits(raw, bitorder="little")
    if bits[n:].any():
        raise RecordError(
            "A bitset of the record has bits beyond its last sample: the file was changed."
        )
    return bits[:n].astype(np.bool_)


def pack_numbers(values: NDArray[np.float32] | NDArray[np.int32]) -> str:
    """(N,) float32 or int32 to base64, little-endian."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def unpack_floats(text: str, n: int) -> NDArray[np.float32]:
    """The inverse of :func:`pack_numbers` for float32."""
    return np.frombuffer(_decode(text, 4 * n, "array"), dtype="<f4").astype(np.float32)


def unpack_ints(text: str, n: int) -> NDArray[np.int32]:
    """The inverse of :func:`pack_numbers` for int32."""
    return np.frombuffer(_decode(text, 4 * n, "array"), dtype="<i4").astype(np.int32)


def _decode(text: str, size: int, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError(
            f"A {what} of the record is not valid base64: the file was damaged or changed."
        ) from error
    if len(raw) != size:
        raise RecordError(
            f"A {what} of the record has {len(raw)} bytes instead of {size}: the file was damaged "
            "or changed."
        )
    return raw
