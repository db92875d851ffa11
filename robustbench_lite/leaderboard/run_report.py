"""The page of somebody's own run: what a folder of records says, with no board behind it."""

from __future__ import annotations

from pathlib import Path

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.leaderboard.render.page import page, section
from robustbench_lite.leaderboard.results import CELLS, Found
from robustbench_lite.leaderboard.standing.run_sheet import of_records
from robustbench_lite.leaderboard.standing.summary import document


def report_page(run: Path, title: str) -> str:
    """Render the page of a run, with a section for each data set.

    ``run`` is a folder of `rbl evaluate`, or one record.
    """
    paths = [run] if run.is_file() else sorted((run / CELLS).glob("*.json"))
    if not paths:
        raise UsageError(
            f"There are no records in {run / CELLS}: name the folder that `rbl evaluate --output` "
            "wrote."
        )
    found = [Found.read(path) for path in paths]
    kinds: dict[str, list[Found]] = {}
    for item in found:
        kinds.setdefault(
            f"{item.record.identity.data.name} {item.record.identity.data.split}", []
        ).append(item)
    sections = []
    for number, (data, records) in enumerate(sorted(kinds.items())):
        if not sum(item.arrays.n for item in records):
            raise RecordError(f"The records of {data} hold no samples.")
        sheet = of_records(records, f"run-{number + 1}", data)
        sections.append(section(sheet, document(sheet), []))
    return page(title, sections, records="" if run.is_file() else f"{CELLS}/{{record}}")
