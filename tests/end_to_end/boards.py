"""A board of a few samples, two attacks and two defenses."""

from __future__ import annotations

from pathlib import Path

from robustbench_lite.cli import main

PGD = 'attack = "pgd steps=6"\nn = 16\n[[curves]]'
INCLUDING = "# Results\n\n<!-- rbl leaderboard: tiny linf -->\nold\n<!-- end -->\n"
BOARD = """
title = "Tiny"
about = "Two attacks, two defenses."
gallery = 1
[data]
name = "fashion_mnist"
n = 24
bundled = true
[ranking]
threat = "linf"
[[rows]]
defense = "none"
[[rows]]
defense = "adversarial_training"
[[threats]]
id = "linf"
norm = "linf"
eps = "0.1"
[[threats.attacks]]
attack = "fgsm"
[[threats.attacks]]
attack = "pgd steps=6"
n = 16
[[curves]]
norm = "linf"
eps = [0.05, "0.2"]
attack = "pgd steps=6"
n = 16
"""


def declare(root: Path, text: str = BOARD) -> None:
    """Write the board, and a page that takes its table in."""
    (root / "boards").mkdir(parents=True, exist_ok=True)
    (root / "boards" / "tiny.toml").write_text(text)
    if not (root / "README.md").exists():
        (root / "README.md").write_text(INCLUDING)


def measured_board(root: Path) -> Path:
    """Declare, measure, lock and build it."""
    declare(root)
    for command in ("run -q", "lock", "build"):
        assert main(["leaderboard", *command.split(), "--root", str(root)]) == 0
    return root
