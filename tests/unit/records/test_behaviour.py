"""Answers of one network agree over machines; those of two networks do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.behaviour import TOLERANCE, Behaviour, objection

ANSWERS = np.array([[3.0, -1.0], [0.5, 20.0], [0.0, 0.25]], dtype=np.float32)


def said(answers: np.ndarray = ANSWERS, fixed: int = 2, probes: int = 1) -> Behaviour:
    return Behaviour.of(answers.astype(np.float32), fixed=fixed, probes=probes)


def changed(row: int, by: float) -> np.ndarray:
    answers = ANSWERS.copy()
    answers[row, 0] += by
    return answers


def test_answers_read_back_as_they_were() -> None:
    again = Behaviour.model_validate_json(said().model_dump_json())
    np.testing.assert_array_equal(again.array(), ANSWERS)


def test_rounding_of_another_machine_agrees_and_more_than_that_does_not() -> None:
    assert said().agrees(said(changed(0, 0.5 * TOLERANCE * 20)))
    assert not said().agrees(said(changed(0, 2 * TOLERANCE * 20)))


def test_a_difference_of_a_thousandth_is_another_network_and_one_of_a_millionth_is_not() -> None:
    assert said().agrees(said(changed(0, 1e-6 * 20)))
    assert not said().agrees(said(changed(0, 1e-3 * 20)))


def test_small_answers_are_compared_with_one() -> None:
    assert said(ANSWERS / 1e4).agrees(said(changed(2, 0.1) / 1e4))


@pytest.mark.parametrize(
    "other",
    [
        said(ANSWERS[:2]),
        said(ANSWERS[:, :1]),
        said(fixed=1),
        said(probes=2),
        said(changed(1, np.nan)),
    ],
    ids=["fewer images", "fewer classes", "other images", "other probes", "a NaN"],
)
def test_other_questions_and_nan_never_agree(other: Behaviour) -> None:
    assert not said().agrees(other)
    assert not other.agrees(said())


def test_an_image_without_an_answer_says_nothing_and_none_at_all_never_agrees() -> None:
    silent = changed(1, np.inf)
    assert said(silent).agrees(said(silent))
    other = silent.copy()
    other[0, 0] += 1
    assert not said(silent).agrees(said(other))
    nothing = np.full((3, 2), np.nan)
    assert not said(nothing).agrees(said(nothing))


def test_without_the_images_only_the_fixed_ones_count() -> None:
    other = said(changed(2, 5.0))
    assert not said().agrees(other)
    assert said().agrees(other, images=False)
    assert said().agrees(said(ANSWERS[:2]), images=False)
    assert not said().agrees(said(changed(0, 5.0)), images=False)


def test_nothing_said_is_an_objection() -> None:
    assert objection(said(), said()) is None
    assert "other answers" in str(objection(said(), said(changed(0, 1.0))))
    assert "does not say" in str(objection(None, said()))


@pytest.mark.parametrize(
    "change", [{"shape": (3, 3)}, {"shape": (-3, -2)}, {"fixed": 4}, {"answers": "AAAA"}]
)
def test_answers_that_are_not_of_their_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        said().model_copy(update=change).array()
