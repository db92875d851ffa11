"""From the verdicts of a sheet to what its table says: worst cases, certificates, ranks. The document is plain JSON values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robustbench_lite.leaderboard.command import command_of
from robustbench_lite.leaderboard.flags import flags_of
from robustbench_lite.leaderboard.ranking import RankRange, rank_ranges
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.sheet import Group, Sheet
from robustbench_lite.leaderboard.slots import positions
from robustbench_lite.leaderboard.worst import Worst, WorstCases, worst_cases
from robustbench_lite.records.statistics import wilson

Document = dict[str, Any]
SCHEMA_VERSION = 1
_DIGITS = 6
"""Of fractions in the document: more than any table shows, fewer than the last bits that machines may differ in."""


def document(sheet: Sheet) -> Document:
    """Everything that the tables say, rows in order of rank."""
    worst = worst_cases(sheet)
    ranks = _ranks(sheet, worst)
    rows = [_row(sheet, number, worst, ranks[number]) for number in range(len(sheet.rows))]
    rows.sort(key=lambda row: (-row["threats"][sheet.ranking]["worst"].get("accuracy", -1.0), row["model"], row["defense"]))
    return {
        "schema_version": SCHEMA_VERSION, "board": sheet.name, "title": sheet.title, "about": sheet.about, "data": sheet.data,
        "n": max(column.n for group in sheet.groups for column in group.columns),
        "seed": sheet.seed, "ranking": {"threat": sheet.ranking, "alpha": sheet.alpha},
        "threats": [
            {
                "id": group.id, "title": group.title, "norm": group.norm, "eps": group.eps, "goal": group.goal,
                "attacks": [
                    {"id": c.id, "heading": c.heading, "attack": c.attack, "n": c.n, "query_budget": c.query_budget}
                    for c in group.columns
                ],
            }
            for group in sheet.groups
        ],
        "rows": rows,
    }  # fmt: skip


def _ranks(sheet: Sheet, worst: WorstCases) -> list[RankRange | None]:
    """Rows that were measured on the same samples are ranked against each other; those that lack a cell have no rank."""
    complete = {row: found for row in range(len(sheet.rows)) if isinstance(found := worst[row, sheet.ranking], Worst)}
    samples = {found.ids.tobytes() for found in complete.values()}
    ranks: list[RankRange | None] = [None] * len(sheet.rows)
    if len(samples) == 1:
        for row, rank in zip(complete, rank_ranges([found.robust for found in complete.values()], sheet.alpha), strict=True):
            ranks[row] = rank
    return ranks


def _row(sheet: Sheet, number: int, worst: WorstCases, rank: RankRange | None) -> Document:
    row = sheet.rows[number]
    return {
        "rank": None if rank is None else list(rank), "model": row.model, "defense": row.defense,
        "clean": _clean(sheet, number),
        "threats": {group.id: _threat(sheet, number, group, worst[number, group.id]) for group in sheet.groups},
        "flags": flags_of(sheet, number, worst),
    }  # fmt: skip


def _clean(sheet: Sheet, row: int) -> Document:
    cells = [found for (at, _), found in sorted(sheet.cells.items()) if at == row]
    if not cells:
        return {"missing": "not measured"}
    found = max(cells, key=lambda f: (f.arrays.n, f.record.key))
    return _share(int(found.arrays.clean_correct.sum()), found.arrays.n)


def _threat(sheet: Sheet, row: int, group: Group, worst: Worst | str) -> Document:
    proof = sheet.proofs.get((row, group.id))
    certified: Document = {"missing": "no certificate"} if proof is None else _share(int(proof.certified.sum()), len(proof.ids))
    if isinstance(worst, str):
        return {"worst": {"missing": worst}, "certified": certified, "open": {"missing": worst}, **_cells(sheet, row, group)}
    between: Document = {"missing": "no certificate"}
    if proof is not None:
        common = np.intersect1d(proof.ids, worst.ids)
        proved = proof.certified[positions(common, proof.ids)]
        held = worst.robust[positions(common, worst.ids)]
        between = {
            "n": len(common), "samples": int((held & ~proved).sum()),
            "low": _round(float(proved.mean())), "high": _round(float(held.mean())),
        }  # fmt: skip
    share = _share(int(worst.robust.sum()), len(worst.ids)) | {"over": list(worst.by)}
    return {"worst": share, "certified": certified, "open": between, **_cells(sheet, row, group)}


def _cells(sheet: Sheet, row: int, group: Group) -> Document:
    cells: Document = {}
    forward = backward = 0.0
    for column in group.columns:
        found = sheet.cells.get((row, column.id))
        if found is None:
            cells[column.id] = {"missing": sheet.missing.get((row, column.id), "not measured")}
            continue
        cells[column.id] = _cell(found)
        forward += cells[column.id]["forward_queries"]
        backward += cells[column.id]["backward_queries"]
    whole = all((row, column.id) in sheet.cells for column in group.columns)
    queries = {"forward": round(forward, 1), "backward": round(backward, 1)} if whole else {"missing": "a cell is missing"}
    return {"queries": queries, "attacks": cells}


def _cell(found: Found) -> Document:
    arrays, record = found.arrays, found.record
    forward, backward = arrays.mean_queries()
    made = record.provenance
    return _share(int(arrays.robust.sum()), arrays.n) | {
        "median_distance": None if arrays.median_distance is None else float(f"{arrays.median_distance:.4g}"),
        "forward_queries": round(forward, 1), "backward_queries": round(backward, 1),
        "key": record.key, "digest": record.digest, "record": found.path.name, "flags": list(made.flags),
        "attack": record.identity.attack.model_dump(mode="json"), "defense": record.identity.defense.model_dump(mode="json"),
        "weights_sha256": record.identity.model.weights_sha256, "samples": record.identity.data.model_dump(mode="json"),
        "command": command_of(record), "made_by": made.command, "created": made.created,
        "seconds": made.seconds, "device": made.device,
        "versions": dict(sorted(made.versions.items())),
    }  # fmt: skip


def _share(successes: int, n: int) -> Document:
    low, high = wilson(successes, n)
    return {"right": successes, "n": n, "accuracy": _round(successes / n), "interval": [_round(low), _round(high)]}


def _round(value: float) -> float:
    return round(value, _DIGITS) if math.isfinite(value) else 0.0
