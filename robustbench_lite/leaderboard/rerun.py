"""Verdicts that are measured once more: random numbers belong to the sample, so a few of them can be had without the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RobustBenchError
from robustbench_lite.leaderboard.answers import answer_problems
from robustbench_lite.leaderboard.bench import Bench, Means
from robustbench_lite.leaderboard.build import Loaded
from robustbench_lite.leaderboard.results import Found, Problem
from robustbench_lite.leaderboard.selection import cells_in_turn, chosen_samples, queries_of
from robustbench_lite.leaderboard.slots import Slot
from robustbench_lite.records.provenance import other_torch


class Rerun(NamedTuple):
    """What came of it."""

    cells: int
    samples: int
    left_out: int
    """Cells that would have cost more queries than were allowed."""
    without_data: list[str]
    """Boards whose images are not here, and do not come with the package either."""
    problems: list[Problem]
    notes: list[str]
    """Verdicts that differ by rounding alone, under another torch: they count as agreement."""


def rerun(
    loaded: list[Loaded], root: Path, count: int, means: Means, *, queries: int, salt: str = "", on_cell: Callable[[str], None]
) -> Rerun:
    """``count`` samples of each recorded cell, chosen by a hash of its digest, measured again, for up to ``queries`` a board.

    Cells come in an order that is a hash too; ``salt`` gives other samples and another order.
    """
    cells = samples = left_out = 0
    problems: list[Problem] = []
    without_data: list[str] = []
    notes: list[str] = []
    for one in loaded:
        bench, budget = Bench(one.board, root, means), queries
        if not bench.has_data():
            without_data.append(one.board.name)
            continue
        problems += answer_problems(one, bench)
        measured = {
            found.record.key: (slot, found) for slot, found in zip(one.filled.slots, one.filled.found, strict=True) if found
        }
        pairs = list(measured.values())
        for number in cells_in_turn([found for _, found in pairs], salt):
            slot, found = pairs[number]
            ids = chosen_samples(found.record.identity.data.ids(), found.record.digest, salt, count)
            cost = queries_of(found, ids)
            if cost > budget:
                left_out += 1
                continue
            budget, cells, samples = budget - cost, cells + 1, samples + len(ids)
            on_cell(f"{one.board.name}: {slot.label}")
            problems += _differences(bench, slot, found, ids.tolist(), notes)
    return Rerun(cells, samples, left_out, without_data, problems, notes)


def _differences(bench: Bench, slot: Slot, found: Found, ids: list[int], notes: list[str]) -> list[Problem]:
    """Verdicts that are others now; those that rounding explains go into ``notes``."""
    import numpy as np

    where = f"{slot.label} ({found.path.name})"
    try:
        verdicts = bench.again(slot, found, np.array(ids, dtype=np.int64))
    except RobustBenchError as error:
        return [Problem(where, f"it cannot be measured again: {error}")]
    recorded = dict(zip(
        found.record.identity.data.ids().tolist(),
        zip(found.arrays.clean_correct.tolist(), found.arrays.broken.tolist(), strict=True), strict=True,
    ))  # fmt: skip
    problems, versions = [], other_torch(found.record.provenance)
    for sample, verdict in verdicts.items():
        if verdict == recorded[sample]:
            continue
        what = f"sample {sample} is recorded as {_said(recorded[sample])}; measured again, it is {_said(verdict)}"
        reason = None if versions is None else _excused(bench, slot, found, sample, recorded[sample], verdict)
        if versions is not None and reason is not None:
            notes.append(f"{where}: {what} (recorded under torch {versions[0]}, measured again under {versions[1]}, {reason})")
            continue
        problems.append(Problem(where, what, f"rbl leaderboard run {bench.board.name}, after: rm {found.path}"))
    return problems


def _excused(
    bench: Bench, slot: Slot, found: Found, sample: int, recorded: tuple[bool, bool], verdict: tuple[bool, bool]
) -> str | None:
    """Why another verdict is none of another network or attack: the margin that it stands on, or the way of the search."""
    from robustbench_lite.leaderboard.near_ties import excuse, excuse_of_search

    clean, attacked = bench.closeness(slot, found, sample)
    reason = excuse(clean if verdict[0] != recorded[0] else attacked)
    return reason or excuse_of_search(bench.roundings_to(slot, found, sample, recorded))


def _said(verdict: tuple[bool, bool]) -> str:
    correct, broken = verdict
    return "broken" if broken else "robust" if correct else "wrong from the start"
