"""Somebody edits ``forward`` between two command lines: no number of the network before the edit is
given for the next one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.boards import BOARD, declare
from tests.end_to_end.conftest import Rbl

CODE = """
import robustbench_lite as rbl
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = rbl.reference_model("fashion_mnist", "adversarial_training").module

    def forward(self, x):
        return self.net({})


def net():
    return Net()
"""
OPTIONS = ("--model", "mine.py:Net", "--allow-code", "--limit", "24")
ANOTHER = (
    "Measured anew: a network with the same weights and structure, but other answers, was recorded "
    "here before"
)


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., None]:
    """``edit("0.2 * x")`` makes that the images that the network sees."""

    def write(images: str, folder: Path = tmp_path) -> None:
        (folder / "mine.py").write_text(CODE.format(images))

    write("x")
    return write


def test_the_same_command_measures_the_edited_network_and_says_so_once(
    rbl: Rbl, edit: Callable[..., None]
) -> None:
    command = ("evaluate", *OPTIONS, "-a", "fgsm", "-a", "pgd steps=3", "--eps", "0.1")
    first = rbl(*command)
    assert "Read from an earlier run's record" in rbl(*command).out
    edit("0.2 * x + 0.4")
    assert "to measure anew: recorded of another network" in rbl(*command, "--dry-run").out
    edited = rbl(*command)
    assert edited.code == 0
    assert edited.out.count(ANOTHER) == 1
    assert "kept in rbl-results/replaced" in edited.out
    assert "Measured anew" not in first.out
    numbers = [
        [
            (cell["clean_accuracy"], cell["robust_accuracy"])
            for cell in json.loads(rbl(*command, *more, "--format", "json").out)["cells"]
        ]
        for more in ((), ("--output", "elsewhere"))
    ]
    assert numbers[0] == numbers[1]
    assert all(robust < 0.3 for _, robust in numbers[0])
    assert "recorded" in rbl(*command, "--dry-run").out
    assert len(list(Path("rbl-results/replaced").glob("*.json"))) == 2


def test_the_same_command_certifies_the_edited_network_and_says_so(
    rbl: Rbl, edit: Callable[..., None]
) -> None:
    command = ("certify", *OPTIONS, "--eps", "0.02", "--method", "ibp")
    assert rbl(*command).code == 0
    edit("0.2 * x + 0.4")
    edited = rbl(*command)
    assert ANOTHER in edited.out
    assert "Read from an earlier run's certificate" in rbl(*command).out
    shares = [
        re.findall(r"[\d.]+%", rbl(*command, *more).out) for more in ((), ("--output", "elsewhere"))
    ]
    assert shares[0] == shares[1]


def test_adversarials_that_are_replayed_on_an_edited_network_come_with_a_note(
    rbl: Rbl, edit: Callable[..., None]
) -> None:
    made = rbl("attack", *OPTIONS, "-a", "pgd steps=3", "--eps", "0.1", "--format", "json")
    saved = json.loads(made.out)["saved"]["adversarials"]
    options = (saved, *OPTIONS[:3], "--format", "json")
    assert json.loads(rbl("verify", *options).out)["notes"] == []
    edit("x + 0.001")
    notes = json.loads(rbl("verify", *options).out)["notes"]
    assert any("answers otherwise than the one that was attacked" in note for note in notes)


def test_a_board_does_not_take_over_what_another_network_left(
    rbl: Rbl, edit: Callable[..., None], tmp_path: Path
) -> None:
    root = tmp_path / "boards"
    row = '[[rows]]\nname = "theirs"\nmodel = "mine.py:net"\n'
    declare(root, BOARD.replace('[[rows]]\ndefense = "none"\n', row).replace("gallery = 1\n", ""))
    edit("x", root)
    common = ("--root", str(root), "--allow-code")
    assert rbl("leaderboard", "run", "-q", *common).code == 0
    for command in ("lock", "build"):
        assert rbl("leaderboard", command, "--root", str(root)).code == 0
    assert rbl("leaderboard", "check", "--rerun", "1", *common).code == 0
    edit("0.2 * x + 0.4", root)
    checked = rbl("leaderboard", "check", "--rerun", "1", *common)
    assert checked.code == 1
    assert "tiny, theirs (none): 4 of its records are not of the network at hand" in checked.out
    assert (
        "0 cells measured" in rbl("leaderboard", "run", "--root", str(root)).out
    )  # its code may not be run
    assert "4 cells measured" in rbl("leaderboard", "run", *common).out
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    again = rbl("leaderboard", "check", "--rerun", "1", *common)
    assert again.code == 0, again.out
    assert len(list((root / "results" / "tiny" / "replaced").iterdir())) == 4
    assert "4 files deleted" in rbl("leaderboard", "run", "--prune", *common).out
