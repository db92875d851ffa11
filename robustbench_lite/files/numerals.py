"""Numbers as users and files write them."""

from __future__ import annotations

import math
import re
import typing
from typing import Any

from robustbench_lite.errors import UsageError

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_WHOLE = re.compile(r"[0-9]{1,18}")
_FRACTION = re.compile(r"\s*([0-9.eE+-]+)\s*/\s*([0-9.eE+-]+)\s*")


def fits_a_tensor(number: float) -> bool:
    """Whether a number can stand in a tensor of int64, or of float32.

    An infinite one can; NaN compares with nothing.
    """
    return (
        abs(number) < 2**63
        if isinstance(number, int)
        else abs(number) <= _FLOAT32_MAX or math.isinf(number)
    )


def is_fraction(text: str) -> bool:
    """It reads ``8/255``."""
    return _FRACTION.fullmatch(text) is not None


def parse_number(text: str | float, what: str = "eps") -> float:
    """``0.3``, ``"0.3"`` or ``"8/255"`` to a finite float.

    >>> parse_number("1/4")
    0.25
    """
    try:
        if isinstance(text, str) and ("_" in text or not text.isascii()):
            raise ValueError(
                "float() takes 1_0 and the digits of any script; a record shall read as it was "
                "written"
            )
        fraction = _FRACTION.fullmatch(text) if isinstance(text, str) else None
        number = float(fraction[1]) / float(fraction[2]) if fraction else float(text)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise UsageError(f"{what} is {text!r}, which is no number. Write 0.1 or 8/255.") from error
    if not math.isfinite(number):
        raise UsageError(f"{what} is {text!r}; it must be a finite number, such as 0.1 or 8/255.")
    return number


def require_seed(seed: object) -> None:
    """Refuse what is no seed: a whole number of at least 0 that 63 bits hold."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise UsageError(f"seed is {seed!r}; it must be a whole number from 0 to 2^63 - 1.")


def parse_whole(text: object) -> int | None:
    """Read a whole number of up to 18 digits, such as ``"40"``; None for anything else.

    (``isdigit`` takes "²" for one.)

    >>> parse_whole("40"), parse_whole("4.0")
    (40, None)
    """
    return int(str(text)) if _WHOLE.fullmatch(str(text)) else None


def convert(value: Any, annotation: Any, what: str) -> Any:
    """One value to the type that it is annotated with.

    Args:
        value: text, or what it stands for; floats may be written as fractions, ``none`` stands for
            None.
        annotation: the type, with ``None`` among it where that is allowed.
        what: names the value in errors.

    Raises:
        UsageError: the value is not of that type, or no number that a tensor can hold.
    """
    from pydantic import TypeAdapter, ValidationError

    if annotation is Any:
        return value
    if isinstance(value, str):
        kinds = typing.get_args(annotation)
        if value.lower() == "none" and type(None) in kinds:
            return None
        if is_fraction(value) and (annotation is float or float in kinds):
            return parse_number(value, what)
    try:
        found = TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UsageError(f"{what} is {value!r}: {reason}.") from error
    if isinstance(found, int | float) and not fits_a_tensor(found):
        raise UsageError(
            f"{what} is {value!r}, which is no number that tensors of int64 and float32 can hold."
        )
    return found
