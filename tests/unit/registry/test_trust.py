"""Names lead to code only as far as they are trusted, and what is no plug-in is never called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from rbl_defenses.adversarial_training import AdversarialTraining
from robustbench_lite import registry
from robustbench_lite.defense.composition import defense_from
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry import Trust


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
