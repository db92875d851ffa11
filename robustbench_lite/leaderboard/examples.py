"""Files of adversarial examples, beside the records that they belong to."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import CARD_BYTES, MAX_PIXELS, Form
from robustbench_lite.files.text import read_model
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.records.files import write_text
from robustbench_lite.records.schema import Strict
from robustbench_lite.records.seal import seal_of

FORMAT_VERSION = 2
"""Version 1 had no seal."""
_EXAMPLES = Form(
    noun="gallery",
    what="a file of examples that cannot be read",
    most=4 * CARD_BYTES,
    error=RecordError,
    fix="Delete it and run `rbl leaderboard run`.",
)


Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class Images(NamedTuple):
    """The arrays of an example, (C, H, W) in [0, 1]."""

    x: NDArray[np.float32]
    x_adv: NDArray[np.float32]


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

    @classmethod
    def of(cls, sample: int, before: str, after: str, images: Images) -> Example:
        """From what the network says before and after."""
        x, x_adv = images
        channels, height, width = x.shape
        return cls(
            id=sample,
            before=before,
            after=after,
            shape=(channels, height, width),
            clean=_encode((x * 255).round().astype(np.uint8)),
            delta=_encode((x_adv - x).astype("<f2")),
        )

    def images(self) -> Images:
        """The arrays; a RecordError if they are not of this shape."""
        try:
            clean = np.frombuffer(base64.b64decode(self.clean, validate=True), np.uint8)
            delta = np.frombuffer(base64.b64decode(self.delta, validate=True), "<f2")
            clean = clean.reshape(self.shape)
            delta = delta.reshape(self.shape)
        except ValueError as error:
            raise RecordError(f"the images of sample {self.id} are damaged: {error}") from error
        x = clean.astype(np.float32) / np.float32(255)
        return Images(x, np.clip(x + delta.astype(np.float32), 0, 1, dtype=np.float32))


class Examples(Strict):
    """The file of a cell."""

    format_version: int = FORMAT_VERSION
    key: str
    digest: str
    examples: list[Example] = Field(min_length=1)
    seal: str = ""

    def seal_anew(self) -> Examples:
        """The same with the seal that belongs to it."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


def write_examples(path: Path, found: Found, examples: list[Example]) -> None:
    """Write the file that belongs to the record ``found``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, Examples(key=found.record.key, digest=found.record.digest, examples=examples))


def migrate_examples(path: Path, found: Found) -> bool:
    """Seal the file of ``found``, if it is of version 1 and shows what the record says.

    Returns:
        Whether it was written.
    """
    content = read_model(path, _EXAMPLES, Examples)
    if content.format_version != 1:
        read_examples(path, found)
        return False
    content = content.model_copy(update={"format_version": FORMAT_VERSION})
    _check(path, content.seal_anew(), found)
    _write(path, content)
    return True


def _write(path: Path, content: Examples) -> None:
    content = content.seal_anew()
    write_text(path, json.dumps(content.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


def read_examples(path: Path, found: Found) -> Examples:
    """Read the file of ``found``.

    Raises:
        RecordError: it belongs to another record, or shows what that does not say.
    """
    content = read_model(path, _EXAMPLES, Examples)
    _check(path, content, found)
    return content


def _check(path: Path, content: Examples, found: Found) -> None:
    if content.format_version != FORMAT_VERSION:
        version = f"format version {content.format_version}; known is {FORMAT_VERSION}"
        mend = "version 1 becomes that by `rbl leaderboard migrate`"
        raise RecordError(f"{path.name} is of {version} ({mend})")
    if content.seal != content.seal_anew().seal:
        raise RecordError(f"{path.name} was changed: its seal does not agree with its contents")
    if (content.key, content.digest) != (found.record.key, found.record.digest):
        other = "its key or digest is another"
        raise RecordError(f"{path.name} is not of the record as it stands: {other}")
    broken = set(found.record.identity.data.ids()[found.arrays.broken].tolist())
    for shown in content.examples:
        if shown.id not in broken:
            held = "which the record does not call broken"
            raise RecordError(f"{path.name} shows sample {shown.id}, {held}")
        shown.images()


def _encode(values: NDArray[np.uint8] | NDArray[np.float16]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
