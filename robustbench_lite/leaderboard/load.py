"""Boards with what is there of them: cells, records on disk, and the sheet that these give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.leaderboard.board import Board, load_boards
from robustbench_lite.leaderboard.results import Filled, fill
from robustbench_lite.leaderboard.slots import expand
from robustbench_lite.leaderboard.standing.sheet import Sheet, of_board
from robustbench_lite.registry import Trust


class Loaded(NamedTuple):
    """A board with what was found of it."""

    board: Board
    filled: Filled
    sheet: Sheet

    def row_name(self, row: int) -> str:
        """A row of the board, as messages say it."""
        return f"{self.board.name}, {self.sheet.rows[row].name}"


def load(root: Path, names: Sequence[str] = (), trust: Trust = Trust.REGISTERED) -> list[Loaded]:
    """Boards with their records, sorted by name; ``trust`` is for code that a board may name."""
    loaded = []
    for board in load_boards(root, names):
        filled = fill(board, expand(board, root, trust), root)
        loaded.append(Loaded(board, filled, of_board(board, filled)))
    return loaded
