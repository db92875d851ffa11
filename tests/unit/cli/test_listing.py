"""The names that ``rbl list`` writes down itself are the names there are."""

from __future__ import annotations

import pytest

from robustbench_lite.cli import listing, main
from robustbench_lite.sources import load_data
from robustbench_lite.sources.model_zoo import network_files
from robustbench_lite.threat import NORMS


def names(section: str) -> list[str]:
    return [row["name"] for row in listing.SECTIONS[section]()]


def test_every_data_set_norm_and_network_is_listed() -> None:
    assert sorted(names("datasets")) == sorted(load_data.NAMES)
    assert sorted(names("norms")) == sorted(NORMS)
    assert names("models") == list(network_files())


@pytest.mark.parametrize("section", ["attacks", "defenses"])
def test_every_plugin_is_described_by_its_own_module(section: str) -> None:
    rows = {row["name"]: row["description"] for row in listing.SECTIONS[section]()}
    assert rows
    assert not [name for name, text in rows.items() if not text or "cannot be read" in text]


def test_a_paper_is_read_from_the_class() -> None:
    assert (
        listing.describe("rbl_attacks.pgd:PGD")
        == "Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)"
    )


@pytest.mark.parametrize(
    "target", ["no_such_package.module:Class", "rbl_attacks.no_such_module:Class"]
)
def test_a_plugin_that_is_not_there_is_named_and_breaks_nothing(target: str) -> None:
    assert "rbl doctor" in listing.describe(target)


def test_what_is_proved_of_a_network_stands_in_its_line_and_in_what_show_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = {row["name"]: row["description"] for row in listing.SECTIONS["models"]()}
    assert lines["mnist-dual_network"].endswith(", 95.5% certified (auto)")
    assert {name for name, text in lines.items() if "certified" in text} == {
        name for name in lines if "dual_network" in name
    }
    assert main(["show", "mnist-dual_network"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("certified ")]
    assert len(said) == 2
    assert (
        "94.31%, an error of 5.69% (dual, linf 0.1, no box, n = 10,000): rbl certify --model "
        "mnist-dual_network " in said[0]
    )


def test_what_is_proved_at_another_radius_is_not_in_the_line() -> None:
    proved = {"certified_accuracy": 0.9, "method": "dual", "norm": "linf", "eps": 0.1}
    assert listing._state_certified({"norm": "linf", "eps": 0.1, "certified": [proved]}) == [
        "90.0% certified (dual)"
    ]
    assert listing._state_certified({"norm": "linf", "eps": 0.2, "certified": [proved]}) == []
    assert listing._state_certified({"norm": "l2", "eps": 0.1, "certified": [proved]}) == []
