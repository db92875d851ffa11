"""Verdicts that are measured once more.

Random numbers belong to the sample, so a few of them can be had without the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.errors import RobustBenchError
from robustbench_lite.leaderboard.answers import answer_problems
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.measure.bench import Bench, Means
from robustbench_lite.leaderboard.measure.near_ties import excuse, excuse_of_search
from robustbench_lite.leaderboard.measure.repeat import Repeat, SampleVerdict, verdicts_of
from robustbench_lite.leaderboard.measure.selection import cells_in_turn, choose_samples, queries_of
from robustbench_lite.leaderboard.results import Problem
from robustbench_lite.records.provenance import other_torch


@dataclass
class Rerun:
    """What came of it."""

    cells: int = 0
    samples: int = 0
    left_out: int = 0
    """Cells that would have cost more queries than were allowed."""
    without_data: list[str] = field(default_factory=list)
    """Boards whose images are not here, and do not come with the package either."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Verdicts that differ by rounding alone, under another torch: they count as agreement."""


class Choice(NamedTuple):
    """What is measured again: so many samples of each cell, chosen by a hash of its digest.

    Cells come in an order that is a hash too; ``salt`` gives other samples and another order.
    """

    samples: int
    queries: int
    """At most, of a board."""
    salt: str = ""


def rerun(
    loaded: list[Loaded],
    root: Path,
    choice: Choice,
    means: Means,
    on_cell: Callable[[str], None],
) -> Rerun:
    """Measure a few samples of each recorded cell again."""
    done = Rerun()
    for one in loaded:
        bench = Bench(one.board, root, means)
        if bench.has_data():
            done.problems += answer_problems(one, bench)
            _rerun_board(one, bench, choice, done, on_cell)
        else:
            done.without_data.append(one.board.name)
    return done


def _rerun_board(
    one: Loaded,
    bench: Bench,
    choice: Choice,
    done: Rerun,
    on_cell: Callable[[str], None],
) -> None:
    """Add to ``done`` what is to be said of one board."""
    repeats = [Repeat(bench, slot, found) for slot, found in one.filled.pairs() if found]
    cells = list({repeat.found.record.key: repeat for repeat in repeats}.values())
    budget = choice.queries
    for number in cells_in_turn([cell.found for cell in cells], choice.salt):
        slot = cells[number].slot
        found = cells[number].found
        recorded = found.record.identity.data.ids()
        ids = choose_samples(recorded, found.record.digest, choice.salt, choice.samples)
        cost = queries_of(found, ids)
        if cost > budget:
            done.left_out += 1
            continue
        budget -= cost
        done.cells += 1
        done.samples += len(ids)
        on_cell(f"{one.board.name}: {slot.label}")
        compared = compare(cells[number], ids)
        done.problems += compared.problems
        done.notes += compared.notes


class Compared(NamedTuple):
    """Verdicts of a cell that are others now."""

    problems: list[Problem]
    notes: list[str]
    """Of those that rounding explains."""


def compare(cell: Repeat, ids: NDArray[np.int64]) -> Compared:
    """Measure the samples ``ids`` of a cell again, and hold them against its record."""
    found = cell.found
    compared = Compared([], [])
    where = f"{cell.slot.label} ({found.path.name})"
    try:
        verdicts = cell.verdicts(ids)
    except RobustBenchError as error:
        compared.problems.append(Problem(where, f"it cannot be measured again: {error}"))
        return compared
    recorded = verdicts_of(found.record.identity.data.ids(), found.arrays)
    torches = other_torch(found.record.provenance)
    for sample, verdict in verdicts.items():
        if verdict == recorded[sample]:
            continue
        what = f"sample {sample} is recorded as {recorded[sample]}; measured again, it is {verdict}"
        reason = None if torches is None else _excuse(cell, sample, recorded[sample], verdict)
        if torches is not None and reason is not None:
            under = f"recorded under torch {torches.then}, measured again under {torches.now}"
            compared.notes.append(f"{where}: {what} ({under}, {reason})")
        else:
            mend = f"rbl leaderboard run {cell.bench.board.name}, after: rm {found.path}"
            compared.problems.append(Problem(where, what, mend))
    return compared


def _excuse(
    cell: Repeat, sample: int, recorded: SampleVerdict, verdict: SampleVerdict
) -> str | None:
    """Why another verdict is none of another network or attack.

    It is the margin that it stands on, or the way of the search.
    """
    near = cell.closeness(sample)
    reason = excuse(near.clean if verdict.correct != recorded.correct else near.attacked)
    return reason or excuse_of_search(cell.roundings_to(sample, recorded))
