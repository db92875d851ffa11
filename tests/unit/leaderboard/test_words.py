"""Shares, radii, threat models and plug-ins are written one way."""

from __future__ import annotations

import doctest

import pytest

from robustbench_lite.leaderboard import words
from robustbench_lite.records.identity import PluginId, ThreatId
from tests.unit.leaderboard.conftest import cell


def test_the_examples_of_the_docstrings_hold() -> None:
    done = doctest.testmod(words)
    assert done.attempted >= 5
    assert done.failed == 0


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.0"), (0.12345, "12.3"), (1.0, "100.0")])
def test_percentages_have_one_digit(value: float, text: str) -> None:
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("eps", "written", "radius", "in_full"),
    [
        (None, None, None, "none: any distance counts"),
        (8 / 255, "8/255", "8/255", "8/255 = 0.0313725"),
        (0.1, "0.10", "0.10", "0.1"),
        (0.1, None, "0.1", "0.1"),
    ],
)
def test_a_radius_is_told_as_it_was_written(
    eps: float | None,
    written: str | None,
    radius: str | None,
    in_full: str,
) -> None:
    threat = ThreatId(norm="linf", eps=eps, eps_written=written, goal="untargeted")
    assert threat.radius == radius
    assert words.radius_in_full(threat) == in_full


def test_a_share_that_nobody_measured_is_a_dash() -> None:
    assert words.share_in_full(None, None) == words.MISSING


def test_an_attack_is_told_with_what_is_not_at_its_default() -> None:
    parameters = {"steps": 7, "restarts": 1}
    identity = cell("none", "pgd", "11", "10", parameters=parameters).record.identity
    assert words.attack(identity) == "pgd steps=7"
    plain = identity.model_copy(update={"adaptive": False})
    assert words.attack(plain) == "pgd steps=7 (not adaptive)"


def test_an_attack_that_is_not_installed_is_told_with_all_its_parameters() -> None:
    parameters = {"b": 0.12345678, "a": 1}
    identity = cell("none", "theirs", "11", "10", parameters=parameters).record.identity
    assert words.attack(identity) == "theirs a=1 b=0.1235"


def test_a_plug_in_is_quoted_for_a_shell_and_told_with_its_version() -> None:
    plugin = PluginId(name="some", version=3, parameters={"b": "x y", "a": 1})
    assert words.spec_for_shell(plugin) == "some a=1 b='x y'"
    assert words.plugin_in_full(plugin) == "some version 3: a=1, b=x y"
    bare = PluginId(name="none", version=1, parameters={})
    assert words.plugin_in_full(bare) == "none version 1: no parameters"


def test_a_composition_is_told_part_by_part() -> None:
    identity = cell("d", "pgd", "11", "10").record.identity
    one, two = (PluginId(name=name, version=1, parameters={}) for name in ("one", "two"))
    whole = PluginId(name="one+two", version=1, parameters={}, parts=[one, two])
    assert words.defense(identity.model_copy(update={"defense": whole})) == "one+two"
    third = two.model_copy(update={"parameters": {"a": 1}})
    whole = whole.model_copy(update={"parts": [one, third]})
    assert words.defense(identity.model_copy(update={"defense": whole})) == "one + two a=1"
