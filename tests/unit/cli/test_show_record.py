"""What a file is shows in its form, whatever the words in it; a suite that stops early says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import robustbench_lite as rbl
from robustbench_lite.cli.show_record import show_file
from tests.conftest import images, present, small_network


def test_a_certificate_is_one_whatever_its_network_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = small_network()
    x = images(6)
    data = (x, network(x).argmax(1))
    found = rbl.certify(network, data, eps=0.01, method="ibp", output=tmp_path, name="broken")
    show_file(present(found.path))
    assert "certifier" in capsys.readouterr().out


@pytest.mark.parametrize(("suite", "marked"), [("quick", True), ("standard", False)])
def test_a_suite_is_shown_stage_by_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suite: str, marked: bool
) -> None:
    network = small_network()
    x = images(6)
    cell = rbl.evaluate(
        network,
        (x, network(x).argmax(1)),
        suite,
        eps=0.02,
        output=tmp_path,
        query_budget=60,
    ).cells[0]
    show_file(present(cell.path))
    shown = capsys.readouterr().out
    assert "apgd steps=30: saw" in shown
    assert ("at most" in shown.partition("certified accuracy")[0]) == marked
