"""``rbl report``: the page of one's own run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", show_default=False, help="Folder of `rbl evaluate`, or one record."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page. Default: RUN/report.html.")
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Its heading.")] = "Robustness report",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Tracebacks.")
    ] = False,
) -> None:
    """Write one HTML page of a run: tables that sort and filter, pictures, the command behind each
    cell. Needs no network.
    """
    from robustbench_lite.errors import UsageError
    from robustbench_lite.leaderboard.run_report import report_page
    from robustbench_lite.records.files import write_text

    if not os.path.exists(run):
        raise UsageError(f"There is no {run}: name the folder that `rbl evaluate --output` wrote.")
    path = output or (run.parent / f"{run.stem}.html" if run.is_file() else run / "report.html")
    text = report_page(run, title)
    if not os.path.isdir(path.parent):
        raise UsageError(f"There is no folder {path.parent} for the page: choose another --output.")
    write_text(path, text)
    print(f"Report: {path}")
