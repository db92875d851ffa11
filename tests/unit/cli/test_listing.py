"""The names that ``rbl list`` writes down itself are the names there are."""

from __future__ import annotations

import pytest

from robustbench_lite.cli import listing
from robustbench_lite.sources import datasets
from robustbench_lite.sources.zoo import network_files
from robustbench_lite.threat import NORMS


def names(section: str) -> list[str]:
    return [row["name"] for row in listing.SECTIONS[section]()]


def test_every_data_set_norm_and_network_is_listed() -> None:
    assert sorted(names("datasets")) == sorted(datasets.NAMES)
    assert sorted(names("norms")) == sorted(NORMS)
    assert names("models") == list(network_files())


@pytest.mark.parametrize("section", ["attacks", "defenses"])
def test_every_plugin_is_described_by_its_own_module(section: str) -> None:
    rows = {row["name"]: row["description"] for row in listing.SECTIONS[section]()}
    assert rows
    assert not [name for name, text in rows.items() if not text or "cannot be read" in text]


def test_a_paper_is_read_from_the_class() -> None:
    assert listing.describe("rbl_attacks.pgd:PGD") == "Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)"


@pytest.mark.parametrize("target", ["no_such_package.module:Class", "rbl_attacks.no_such_module:Class"])
def test_a_plugin_that_is_not_there_is_named_and_breaks_nothing(target: str) -> None:
    assert "rbl doctor" in listing.describe(target)
