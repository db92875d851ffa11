"""Specs, names and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from rbl_defenses.adversarial_training import AdversarialTraining
from robustbench_lite import registry
from robustbench_lite.defense.composition import defense_from
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry import Spec, Trust, parse_number, parse_whole


def test_a_spec_is_a_name_and_key_value_pairs() -> None:
    assert Spec.parse("pgd steps=40 step_size=2/255") == Spec(
        "pgd", {"steps": "40", "step_size": "2/255"}
    )
    assert Spec.parse("a text='two words'").params == {"text": "two words"}


@pytest.mark.parametrize("text", ["", "pgd steps", "pgd =3", "pgd steps=1 steps=2", "pgd 'steps=1"])
def test_a_malformed_spec_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        Spec.parse(text)


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


def test_listing_names_needs_no_plugin() -> None:
    assert {"fgsm", "pgd", "boundary"} <= set(registry.names("attack"))
    assert {"none", "parseval", "adversarial_training"} <= set(registry.names("defense"))


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), (0.1, 0.1), ("1e-3", 1e-3), ("0", 0.0)]
)
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
def test_what_is_no_plugin_is_refused_before_it_is_called(
    kind: Literal["attack", "defense"], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"is no {kind}"):
        registry.create(kind, name, Trust.INSTALLED)
    assert not list(tmp_path.iterdir())


NESTED = "adversarial_training attack='json:Attack'"


@pytest.mark.parametrize(
    ("kind", "spec"), [("attack", "json:Attack"), ("defense", "json:Defense"), ("defense", NESTED)]
)
def test_names_lead_to_code_only_as_far_as_they_are_trusted(kind: registry.Kind, spec: str) -> None:
    with pytest.raises(UsageError, match=r"'json:[A-Z][a-z]*' names code.*--allow-code"):
        registry.create(kind, spec)
    for trust in (Trust.INSTALLED, Trust.ANY):
        with pytest.raises(UnknownNameError, match="in module json"):
            registry.create(kind, spec, trust)


@pytest.mark.parametrize(
    "door",
    [
        lambda: registry.load("attack", "json:Attack"),
        lambda: registry.import_object("json:Attack", "attack"),
        lambda: registry.create("attack", "json:Attack"),
        lambda: registry.call_with_text(AdversarialTraining, {"attack": "json:Attack"}, "defense"),
        lambda: defense_from("none + json:Defense"),
    ],
    ids=["load", "import", "create", "a hyper-parameter", "a composition"],
)
def test_whoever_says_nothing_of_trust_gets_registered_names_alone(
    door: Callable[[], object],
) -> None:
    with pytest.raises(UsageError, match="names code, and a file may give registered names alone"):
        door()


def test_what_stands_in_a_file_that_is_named_is_trusted_less_than_its_name() -> None:
    assert [trust.in_files for trust in Trust] == [Trust.REGISTERED, Trust.REGISTERED, Trust.ANY]
    Trust.ANY.require(Trust.ANY, "network", "a.py:b")
    with pytest.raises(UsageError, match="it runs a file"):
        Trust.INSTALLED.require(Trust.ANY, "network", "a.py:b")


def test_a_module_that_fails_as_it_is_imported_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_at_once.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("fails_at_once:A", ":A", "..:A", "a..b:A"):
        with pytest.raises(UsageError, match="cannot be imported"):
            registry.import_object(path, "attack", Trust.INSTALLED)


@pytest.mark.parametrize("value", ["1e300", "nan", "9" * 30])
def test_a_number_that_no_tensor_holds_is_a_usage_error(value: str) -> None:
    with pytest.raises(UsageError, match=r"step_size|steps"):
        registry.create("attack", f"pgd {'steps' if value.isdigit() else 'step_size'}={value}")


@pytest.mark.parametrize(
    ("text", "number"),
    [("40", 40), (7, 7), ("\u00b2", None), ("\u0661", None), ("-1", None), ("9" * 19, None)],
)
def test_whole_numbers_are_ascii_digits(text: object, number: int | None) -> None:
    assert parse_whole(text) == number


def test_very_many_pluses_are_cut_all_the_same() -> None:
    assert len(registry.split("defense", "none a=" + "+none" * 5000)) == 5001
