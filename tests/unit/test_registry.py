"""Specs, names and their errors."""

from __future__ import annotations

import math

import pytest

from robustbench_lite import registry
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry import Spec, Trust, parse_number


def test_a_spec_is_a_name_and_key_value_pairs() -> None:
    assert Spec.parse("pgd steps=40 step_size=2/255") == Spec("pgd", {"steps": "40", "step_size": "2/255"})
    assert Spec.parse("a text='two words'").params == {"text": "two words"}


@pytest.mark.parametrize("text", ["", "pgd steps", "pgd =3", "pgd steps=1 steps=2", "pgd 'steps=1"])
def test_a_malformed_spec_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        Spec.parse(text)


def test_text_values_become_the_types_of_the_fields() -> None:
    attack = registry.create("attack", "pgd steps=7 step_size=2/255 random_start=false loss=margin")
    assert (attack.steps, attack.step_size, attack.random_start, attack.loss) == (7, 2 / 255, False, "margin")
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


def test_listing_names_needs_no_plugin() -> None:
    assert {"fgsm", "pgd", "boundary"} <= set(registry.names("attack"))
    assert {"none", "parseval", "adversarial_training"} <= set(registry.names("defense"))


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), (0.1, 0.1), ("1e-3", 1e-3), ("0", 0.0)])
def test_numbers_may_be_fractions(text: str | float, value: float) -> None:
    assert math.isclose(parse_number(text), value)


@pytest.mark.parametrize("text", ["", "abc", "1/0", "nan", "inf", "8/255/2", "--1"])
def test_what_is_no_finite_number_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_number(text)


def test_an_unknown_name_lists_the_known_ones() -> None:
    error = UnknownNameError("norm", "linff", ["linf", "l2"])
    assert str(error) == "No norm is named 'linff'. Did you mean 'linf'? Known: l2, linf."


@pytest.mark.parametrize("kind", ["attack", "defense"])
@pytest.mark.parametrize("name", ["os:mkdir path=made", "builtins:dict", "collections:Counter"])
def test_what_is_no_plugin_is_refused_before_it_is_called(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"is no {kind}"):
        registry.create(kind, name, Trust.INSTALLED)
    assert not list(tmp_path.iterdir())
