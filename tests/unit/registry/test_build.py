"""Plug-ins are built from text, or the text is refused with what is allowed."""

from __future__ import annotations

import pytest

from robustbench_lite import registry
from robustbench_lite.errors import UsageError
from robustbench_lite.registry import Trust


def test_text_values_become_the_types_of_the_fields() -> None:
    attack = registry.create("attack", "pgd steps=7 step_size=2/255 random_start=false loss=margin")
    assert (attack.steps, attack.step_size, attack.random_start, attack.loss) == (
        7,
        2 / 255,
        False,
        "margin",
    )
    assert registry.create("attack", "pgd step_size=none").step_size is None


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("pdg", "Did you mean 'pgd'"),
        ("pgd step=3", "Did you mean 'steps'"),
        ("pgd steps=many", "steps"),
        ("pgd loss=hinge", "loss"),
        ("pgd steps=0", "steps"),
        ("no.such.module:Attack", "no module"),
        ("json:Attack", "No attack in module json"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(spec: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        registry.create("attack", spec, Trust.INSTALLED)


@pytest.mark.parametrize("value", ["1e300", "nan", "9" * 30])
def test_a_number_that_no_tensor_holds_is_a_usage_error(value: str) -> None:
    with pytest.raises(UsageError, match=r"step_size|steps"):
        registry.create("attack", f"pgd {'steps' if value.isdigit() else 'step_size'}={value}")
