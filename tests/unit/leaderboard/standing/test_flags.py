"""Signs of masked gradients and contradictions are flagged with their reason, and nothing
else is.
"""

from __future__ import annotations

from collections.abc import Callable

from robustbench_lite.leaderboard.standing.flags import flags_of
from robustbench_lite.leaderboard.standing.sheet import Sheet
from robustbench_lite.leaderboard.standing.worst import worst_cases
from tests.unit.leaderboard.conftest import cell

Make = Callable[..., Sheet]
ALL, NONE, HALF = "1" * 40, "0" * 40, "10" * 20


def flags(sheet: Sheet) -> list[str]:
    """Those of the first row."""
    return flags_of(sheet, 0, worst_cases(sheet))


def test_a_black_box_attack_that_beats_gradients_is_flagged(sheet: Make) -> None:
    (flag,) = flags(sheet(cell("d", "pgd", ALL, HALF), cell("d", "boundary", ALL, NONE)))
    assert "black box beats gradients" in flag


def test_one_step_that_breaks_more_than_many_is_flagged(sheet: Make) -> None:
    (flag,) = flags(sheet(cell("d", "pgd", ALL, HALF), cell("d", "fgsm", ALL, NONE)))
    assert "one step breaks more than many" in flag


def test_a_stronger_gradient_attack_is_no_sign_of_anything(sheet: Make) -> None:
    cells = [
        cell("d", "pgd", ALL, NONE),
        cell("d", "boundary", ALL, HALF),
        cell("d", "fgsm", ALL, ALL),
    ]
    assert flags(sheet(*cells)) == []


def test_a_difference_of_a_few_samples_is_not_flagged(sheet: Make) -> None:
    assert (
        flags(
            sheet(cell("d", "pgd", ALL, "1" * 38 + "00"), cell("d", "fgsm", ALL, "1" * 36 + "0000"))
        )
        == []
    )


def test_robust_accuracy_that_rises_with_eps_is_flagged(sheet: Make) -> None:
    (flag,) = flags(
        sheet(cell("d", "pgd", ALL, HALF, eps=0.1), cell("d", "pgd", ALL, ALL, eps=0.2))
    )
    assert "leaves more at eps 0.2 than at 0.1" in flag


def test_anything_left_at_half_the_range_is_flagged(sheet: Make) -> None:
    (flag,) = flags(sheet(cell("d", "pgd", ALL, HALF, eps=0.5)))
    assert "too weak" in flag


def test_a_worst_case_that_rests_on_samples_which_a_stronger_attack_never_saw_is_flagged(
    sheet: Make,
) -> None:
    few = cell("d", "pgd", "1" * 20, "0" * 20, parameters={"steps": 7})
    (flag,) = flags(sheet(cell("d", "pgd", ALL, ALL), few))
    broke = "pgd steps=7 broke 20 of the samples that it met and the worst case leaves"
    assert flag == f"Linf 0.1: {broke}"


def test_fewer_samples_that_say_the_same_are_not_flagged(sheet: Make) -> None:
    few = cell("d", "pgd", "1" * 20, "10" * 10, parameters={"steps": 7})
    assert flags(sheet(cell("d", "pgd", ALL, HALF), few)) == []


def test_notes_of_a_record_are_handed_on(sheet: Make) -> None:
    (flag,) = flags(sheet(cell("d", "pgd", ALL, HALF, flags=["random model"])))
    assert flag == "Linf 0.1, pgd: random model"


def test_a_note_that_all_records_of_a_row_have_stands_once(sheet: Make) -> None:
    cells = [
        cell("d", "pgd", ALL, HALF, flags=["random model"]),
        cell("d", "fgsm", ALL, ALL, flags=["random model", "odd"]),
    ]
    assert flags(sheet(*cells)) == ["Linf 0.1, fgsm: odd", "random model"]


def test_a_sample_that_is_certified_and_broken_is_flagged_by_its_number(sheet: Make) -> None:
    proved = cell("d", "fgsm", ALL, ALL, certified=HALF)
    found = flags(sheet(proved, cell("d", "pgd", ALL, "01" * 20)))
    assert any("sample 0 is certified and broken by pgd" in flag for flag in found)
