"""From the verdicts of a sheet to the document: worst cases, certificates, ranks."""

from __future__ import annotations

import numpy as np

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.slots import positions
from robustbench_lite.leaderboard.standing.command import command_of
from robustbench_lite.leaderboard.standing.document import (
    Document,
    LastBroken,
    MeanQueries,
    MeasuredCell,
    Missing,
    OpenRange,
    RankedRow,
    RankingRule,
    Share,
    Standing,
    ThreatTable,
    WorstShare,
    round_share,
)
from robustbench_lite.leaderboard.standing.flags import flags_of
from robustbench_lite.leaderboard.standing.ranking import RankRange, rank_ranges
from robustbench_lite.leaderboard.standing.sheet import RowProof, Sheet
from robustbench_lite.leaderboard.standing.worst import Worst, WorstCases, worst_cases

_NO_CERTIFICATE = Missing(missing="no certificate")


def document(sheet: Sheet) -> Document:
    """Everything that the tables say, rows in order of rank."""
    worst = worst_cases(sheet)
    ranks = _rank(sheet, worst)
    rows = [_row(sheet, number, worst, ranks[number]) for number in range(len(sheet.rows))]
    return Document(
        board=sheet.name,
        title=sheet.title,
        about=sheet.about,
        data=sheet.data,
        n=max(column.n for group in sheet.groups for column in group.attacks),
        seed=sheet.seed,
        ranking=RankingRule(threat=sheet.ranking, alpha=sheet.alpha),
        threats=sheet.groups,
        rows=sorted(rows, key=lambda row: (-_left(row, sheet.ranking), row.model, row.defense)),
    )


def _left(row: RankedRow, threat: str) -> float:
    """What rows are ordered by; one that lacks a cell comes after all others."""
    worst = row.threats[threat].worst
    return worst.accuracy if isinstance(worst, WorstShare) else -1.0


def _rank(sheet: Sheet, worst: WorstCases) -> list[RankRange | None]:
    """Rows that were measured on the same samples are ranked against each other.

    Those that lack a cell have no rank.
    """
    cases = {row: worst[row, sheet.ranking] for row in range(len(sheet.rows))}
    complete = {row: case for row, case in cases.items() if isinstance(case, Worst)}
    samples = {found.ids.tobytes() for found in complete.values()}
    ranks: list[RankRange | None] = [None] * len(sheet.rows)
    if len(samples) == 1:
        ranges = rank_ranges([found.robust for found in complete.values()], sheet.alpha)
        for row, rank in zip(complete, ranges, strict=True):
            ranks[row] = rank
    return ranks


def _row(sheet: Sheet, number: int, worst: WorstCases, rank: RankRange | None) -> RankedRow:
    row = sheet.rows[number]
    threats = {}
    for group in sheet.groups:
        threats[group.id] = _standing(sheet, number, group, worst[number, group.id])
    return RankedRow(
        rank=rank,
        model=row.model,
        defense=row.defense,
        clean=_clean(sheet, number),
        threats=threats,
        flags=flags_of(sheet, number, worst),
    )


def _clean(sheet: Sheet, row: int) -> Share | Missing:
    cells = [found for (at, _), found in sorted(sheet.cells.items()) if at == row]
    if not cells:
        return Missing(missing="not measured")
    found = max(cells, key=lambda f: (f.arrays.n, f.record.key))
    return Share.of(int(found.arrays.clean_correct.sum()), found.arrays.n)


def _standing(sheet: Sheet, row: int, group: ThreatTable, worst: Worst | str) -> Standing:
    proof = sheet.proofs.get((row, group.id))
    attacks = _attacks(sheet, row, group)
    return Standing(
        worst=_worst(worst),
        certified=_NO_CERTIFICATE if proof is None else _share_certified(proof),
        open=_open(proof, worst),
        queries=_queries([attacks[column.id] for column in group.whole]),
        attacks=attacks,
        last=_last_broken(sheet, row, group),
    )


def _last_broken(sheet: Sheet, row: int, group: ThreatTable) -> LastBroken | None:
    """Find the last stage of the suites of a row that broke anything."""
    found = [sheet.cells[row, column] for column in group.suites if (row, column) in sheet.cells]
    for cell in reversed(found):
        plan = cell.record.identity.attack.stages or []
        for tally in reversed(cell.record.outcomes.stages or []):
            if tally.broken:
                return LastBroken(stage=words.stage(plan[tally.stage]), broken=tally.broken)
    return None


def _worst(worst: Worst | str) -> WorstShare | Missing:
    if isinstance(worst, str):
        return Missing(missing=worst)
    return WorstShare.of(int(worst.robust.sum()), len(worst.ids), over=list(worst.by))


def _share_certified(proof: RowProof) -> Share:
    return Share.of(int(proof.certified.sum()), len(proof.ids))


def _open(proof: RowProof | None, worst: Worst | str) -> OpenRange | Missing:
    """What is left open on the samples that were attacked and were to be certified."""
    if isinstance(worst, str):
        return Missing(missing=worst)
    if proof is None:
        return _NO_CERTIFICATE
    common = np.intersect1d(proof.ids, worst.ids)
    proved = proof.certified[positions(common, proof.ids)]
    held = worst.robust[positions(common, worst.ids)]
    return OpenRange(
        n=len(common),
        samples=int((held & ~proved).sum()),
        low=round_share(float(proved.mean())),
        high=round_share(float(held.mean())),
    )


def _attacks(sheet: Sheet, row: int, group: ThreatTable) -> dict[str, MeasuredCell | Missing]:
    cells: dict[str, MeasuredCell | Missing] = {}
    for column in group.attacks:
        found = sheet.cells.get((row, column.id))
        if found is None:
            reason = sheet.missing.get((row, column.id), "not measured")
            cells[column.id] = Missing(missing=reason)
        else:
            cells[column.id] = _cell(found)
    return cells


def _queries(cells: list[MeasuredCell | Missing]) -> MeanQueries | Missing:
    """Those of several attacks together, which met the same samples."""
    measured = [cell for cell in cells if isinstance(cell, MeasuredCell)]
    if len(measured) < len(cells):
        return Missing(missing="a cell is missing")
    return MeanQueries(
        forward=round(sum(cell.forward_queries for cell in measured), 1),
        backward=round(sum(cell.backward_queries for cell in measured), 1),
    )


def _cell(found: Found) -> MeasuredCell:
    arrays = found.arrays
    record = found.record
    queries = arrays.mean_queries()
    median = arrays.median_distance
    identity = record.identity
    made = record.provenance
    return MeasuredCell.of(
        int(arrays.robust.sum()),
        arrays.n,
        median_distance=None if median is None else float(f"{median:.4g}"),
        forward_queries=round(queries.forward, 1),
        backward_queries=round(queries.backward, 1),
        key=record.key,
        digest=record.digest,
        record=found.path.name,
        flags=made.flags,
        attack=identity.attack,
        defense=identity.defense,
        weights_sha256=identity.model.weights_sha256,
        samples=identity.data,
        command=command_of(record),
        made_by=made.command,
        created=made.created,
        seconds=made.seconds,
        device=made.device,
        versions=dict(sorted(made.versions.items())),
    )
