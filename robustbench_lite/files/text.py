"""JSON and TOML from elsewhere, with a bound on their size and on how deeply they nest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robustbench_lite.files.reading import MAX_DEPTH, Form, explain, read_bytes, reading

if TYPE_CHECKING:
    from pydantic import BaseModel

_DOTS_A_LINE = 1000
"""Of TOML: the time for a dotted key grows as the square of its parts, and a line of prose has a
few.
"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, but for tab and line feed."""
ModelT = TypeVar("ModelT", bound="BaseModel")


def read_toml(path: Path, form: Form) -> dict[str, Any]:
    """The tables of a TOML file."""
    with reading(path, form):
        text = path.read_bytes().decode("utf-8")
        if any(line.count(".") > _DOTS_A_LINE for line in text.splitlines()):
            raise ValueError(f"a line has more than {_DOTS_A_LINE:,} dots")
        content = tomllib.loads(text)
        _require_shallow(content)
        return content


def read_text(path: Path, form: Form) -> str:
    """The content of a text file in UTF-8."""
    with reading(path, form):
        return path.read_bytes().decode("utf-8")


def read_json(path: Path, form: Form) -> Any:
    """Read the value of a JSON file.

    The parser itself refuses what is nested more than 200 deep, and NaN is no JSON.
    """
    from pydantic_core import from_json

    with reading(path, form):
        content = from_json(path.read_bytes(), allow_inf_nan=False)
        _require_shallow(content)
        return content


def read_model(path: Path, form: Form, model: type[ModelT]) -> ModelT:
    """A JSON file as an object of ``model``."""
    return parse_model(read_bytes(path, form), str(path), form, model)


def parse_model(content: bytes | str, where: str, form: Form, model: type[ModelT]) -> ModelT:
    """:func:`read_model` for JSON that is no file of its own."""
    with explain(where, form):
        return model.model_validate_json(content)


def printable(text: str) -> str:
    r"""``text`` with what a terminal would obey written out.

    A file from elsewhere moves no cursor and changes no title.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _require_shallow(content: Any) -> None:
    level = [content]
    depth = 0
    while level := [
        inner
        for value in level
        if isinstance(value, dict | list)
        for inner in (value.values() if isinstance(value, dict) else value)
        if isinstance(inner, dict | list)
    ]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
