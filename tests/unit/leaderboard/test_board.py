"""A board that cannot be used is refused with the field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_lite.errors import UsageError
from robustbench_lite.leaderboard.board import Board, load_board, load_boards
from robustbench_lite.leaderboard.slots import differences, expand

TEXT = """
title = "T"
[data]
name = "fashion_mnist"
n = 20
bundled = true
[ranking]
threat = "linf"
[[rows]]
defense = "none"
[[threats]]
id = "linf"
norm = "linf"
eps = "8/255"
[[threats.attacks]]
attack = "pgd steps=3"
n = 10
[[threats.attacks]]
attack = "fgsm"
[[curves]]
norm = "linf"
eps = [0.05, "0.1"]
attack = "pgd steps=3"
"""


def read(tmp_path: Path, text: str) -> Board:
    (tmp_path / "b.toml").write_text(text)
    return load_board(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n = 20", "", "give n"),
        ("n = 10", "n = 30", "30; the board has 20"),
        ('threat = "linf"', 'threat = "l2"', "ranking.threat is 'l2'; the threats are linf"),
        ('eps = "8/255"', 'eps = "much"', "much"),
        ('attack = "fgsm"', 'attack = "pgd"', "same heading"),
        ('attack = "fgsm"', 'attack = "fgsm sweep"', "key=value"),
        ('title = "T"', 'title = "T"\ncolour = 3', "colour"),
        ('title = "T"', "title = ", "valid TOML"),
        ("n = 20", f"n = {10**18}", "16777216"),
        ("n = 20", f"ids = [[0, {10**15}]]", "16,777,216 samples"),
        ("n = 20", "ids = []", "1 to"),
        ("n = 10", f"n = {'9' * 5000}", "valid TOML"),
        ('title = "T"', f"title = {'[' * 900}", "valid TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert "b.toml" in str(error.value)


def test_a_folder_without_boards_and_an_unknown_board_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no board"):
        load_boards(tmp_path)
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "mnist.toml").write_text(TEXT)
    with pytest.raises(UsageError, match="Did you mean 'mnist'"):
        load_boards(tmp_path, ["mnits"])


def test_a_board_expands_to_its_cells_with_n_and_budget_of_each_attack(tmp_path: Path) -> None:
    slots = expand(read(tmp_path, TEXT), tmp_path)
    assert [(slot.column, slot.n) for slot in slots] == [
        ("linf/pgd", 10),
        ("linf/fgsm", 20),
        ("curve/linf/0.05/pgd steps=3", 20),
        ("curve/linf/0.1/pgd steps=3", 20),
    ]


def test_a_hyper_parameter_that_differs_is_named_with_both_values(tmp_path: Path) -> None:
    one = expand(read(tmp_path, TEXT), tmp_path)[0].expected
    other = expand(read(tmp_path, TEXT.replace("steps=3", "steps=5", 1)), tmp_path)[0].expected
    assert differences(other, one) == [
        "attack.parameters.steps: the board asks for 5, the record has 3"
    ]
    assert differences(one, one) == []


def test_the_committed_boards_can_be_read() -> None:
    root = Path(__file__).parents[3] / "leaderboards"
    for board in load_boards(root):
        assert expand(board, root)
