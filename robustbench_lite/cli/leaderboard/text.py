"""What ``rbl leaderboard`` says of boards: what is to do, what holds, and what does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.load import Loaded
    from robustbench_lite.leaderboard.measure.rerun import Rerun
    from robustbench_lite.leaderboard.measure.run import Planned
    from robustbench_lite.leaderboard.results import Problem


def plan_table(planned: Sequence[Planned]) -> str:
    """The cells that are missing or out of date."""
    from tabulate import tabulate

    rows = [(cell.board, cell.label, f"{cell.n:,}", cell.state) for cell in planned]
    return tabulate(rows, headers=["board", "cell", "n", "state"], disable_numparse=True)


def rerun_note(done: Rerun, queries: int) -> str:
    """What was measured again, and what was not."""
    note = f" {done.samples} samples of {done.cells} cells were measured again"
    if done.left_out:
        note += f"; {done.left_out} cells were left out, for --rerun-queries {queries:,}"
    if done.without_data:
        note += f"; without the images of {', '.join(done.without_data)} (--data-dir)"
    return f"{note}."


def cells_of(one: Loaded) -> str:
    """How many cells of a board are measured, and how long that took."""
    seconds = [found.record.provenance.seconds for found in one.filled.found if found is not None]
    return f"{one.board.name} {len(seconds)} cells in {sum(seconds) / 3600:.1f} h"


def tell(problems: Iterable[Problem]) -> None:
    """Print each problem, with what mends it."""
    for where, what, mend in problems:
        print(f"{where}: {what}")
        if mend:
            print(f"    to mend: {mend}")
