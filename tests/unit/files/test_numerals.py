"""Numbers are read as they are written, and by nobody otherwise."""

from __future__ import annotations

import math

import pytest

from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.files.numerals import parse_number, parse_whole, require_seed
from robustbench_lite.training.trainer import Recipe


@pytest.mark.parametrize(
    ("text", "number"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("1e-3", 1e-3), (2, 2.0), ("-0.5", -0.5)],
)
def test_numbers_are_read(text: str | float, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1_0",
        "\u0668",
        "\u0668/255",
        "8/\u0662",
        "\u00bd",
        "0x1",
        "8/255/2",
        "8/0",
        "a",
        None,
        "1,5",
    ],
)
def test_what_is_no_number_in_plain_digits_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="no number"):
        parse_number(text)  # type: ignore[arg-type]
    assert parse_whole(text) is None


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", math.nan, math.inf])
def test_what_is_not_finite_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError, match="finite"):
        parse_number(text)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_seeds_of_63_bits_are_taken(seed: int) -> None:
    require_seed(seed)
    assert (Settings(seed=seed).seed, Recipe(seed=seed).seed) == (seed, seed)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**200, 1.0, True, "1", None])
def test_other_seeds_are_refused_everywhere(seed: object) -> None:
    for taken in (require_seed, lambda seed: Settings(seed=seed), lambda seed: Recipe(seed=seed)):
        with pytest.raises(UsageError, match="from 0 to"):
            taken(seed)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), (0.1, 0.1), ("1e-3", 1e-3), ("0", 0.0)]
)
def test_numbers_may_be_fractions(text: str | float, value: float) -> None:
    assert math.isclose(parse_number(text), value)


@pytest.mark.parametrize("text", ["", "abc", "1/0", "nan", "inf", "8/255/2", "--1"])
def test_what_is_no_finite_number_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_number(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("40", 40), (7, 7), ("\u00b2", None), ("\u0661", None), ("-1", None), ("9" * 19, None)],
)
def test_whole_numbers_are_ascii_digits(text: object, number: int | None) -> None:
    assert parse_whole(text) == number
