"""The text form of a plug-in."""

from __future__ import annotations

import pytest

from robustbench_lite import registry
from robustbench_lite.errors import UsageError
from robustbench_lite.registry import Spec


def test_a_spec_is_a_name_and_key_value_pairs() -> None:
    assert Spec.parse("pgd steps=40 step_size=2/255") == Spec(
        "pgd", {"steps": "40", "step_size": "2/255"}
    )
    assert Spec.parse("a text='two words'").params == {"text": "two words"}


@pytest.mark.parametrize("text", ["", "pgd steps", "pgd =3", "pgd steps=1 steps=2", "pgd 'steps=1"])
def test_a_malformed_spec_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        Spec.parse(text)


def test_very_many_pluses_are_cut_all_the_same() -> None:
    assert len(registry.split("defense", "none a=" + "+none" * 5000)) == 5001
