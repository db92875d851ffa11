"""Do the networks at hand answer as the records of a board say?

A record of another network is no result of the board.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.errors import RecordError, RobustBenchError
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.measure.bench import Bench
from robustbench_lite.leaderboard.results import CERTIFICATES, Problem
from robustbench_lite.records.behaviour import Behaviour, objection
from robustbench_lite.records.certificate import read_certificate
from robustbench_lite.records.identity import DataId


class Other(NamedTuple):
    """A record, and why it is not of the network that stands in its row."""

    row: int
    path: Path
    reason: str


def of_other_networks(one: Loaded, bench: Bench) -> Iterator[Other]:
    """Find the cells of a board whose networks at hand answer otherwise.

    Where network or images are not here, nothing is said.
    """
    if not bench.has_data():
        return
    seen: set[str] = set()
    for slot, found in one.filled.pairs():
        if found is None or slot.missing or found.record.key in seen:
            continue
        seen.add(found.record.key)
        reason = _reason(bench, slot.row, found.record.identity.data, found.record.behaviour)
        if reason is not None:
            yield Other(slot.row, found.path, reason)


def _certificates(bench: Bench) -> Iterator[Other]:
    """The same for certificates; one that cannot be read is named elsewhere."""
    for path in sorted((bench.folder / CERTIFICATES).glob("*.json")):
        try:
            record, _ = read_certificate(path)
        except RecordError:
            continue
        row = bench.row_of(record.identity.model, record.identity.defense)
        if row is not None:
            reason = _reason(bench, row, record.identity.data, record.behaviour)
            if reason is not None:
                yield Other(row, path, reason)


def _reason(bench: Bench, row: int, data: DataId, kept: Behaviour | None) -> str | None:
    if not bench.has_images_of(data):
        return None
    try:
        return objection(kept, bench.answers(row, data.ids()))
    except RobustBenchError:
        return None  # its code may not be run, say: nobody is there to be asked


def answer_problems(one: Loaded, bench: Bench) -> list[Problem]:
    """A problem for each row whose network answers otherwise than its records say."""
    by_row: dict[int, list[Other]] = {}
    for other in [*of_other_networks(one, bench), *_certificates(bench)]:
        by_row.setdefault(other.row, []).append(other)
    return [_problem(one, row, found) for row, found in sorted(by_row.items())]


def _problem(one: Loaded, row: int, others: list[Other]) -> Problem:
    first = others[0]
    mend = f"measure the row again: rbl leaderboard run {one.board.name}"
    such = f"such as {first.path.name}: {first.reason}"
    what = f"{len(others)} of its records are not of the network at hand, {such}"
    return Problem(one.row_name(row), what, mend)
