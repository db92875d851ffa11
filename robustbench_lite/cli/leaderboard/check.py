"""``rbl leaderboard check``: does everything still hold?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Root, collect_seldom, means_from
from robustbench_lite.cli.leaderboard.text import cells_of, rerun_note, tell
from robustbench_lite.errors import CheckFailed

_QUERIES = 10_000


@collect_seldom()
def check(
    root: Root = ROOT,
    rerun: Annotated[
        int, typer.Option(metavar="K", min=0, help="Measure K samples of each cell again.")
    ] = 0,
    queries: Annotated[
        int,
        typer.Option("--rerun-queries", metavar="N", min=1, help="Most queries a board for that."),
    ] = _QUERIES,
    salt: Annotated[
        str, typer.Option(metavar="TEXT", help="Another text chooses other samples.")
    ] = "",
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    device: Annotated[str, opt.Device] = "auto",
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.BoardCode] = False,
) -> None:
    """Check records, boards, tables and implementations against each other; exit 1 with what does
    not hold.
    """
    from robustbench_lite.leaderboard.check import check as look

    problems, built = look(root, opt.trust_in_files(allow_code))
    note = ""
    if rerun:
        from robustbench_lite.leaderboard.measure.rerun import Choice
        from robustbench_lite.leaderboard.measure.rerun import rerun as again

        means = means_from(data_dir, download, device, "auto", allow_code)
        done = again(built.loaded, root, Choice(rerun, queries, salt), means, _ignore)
        problems += done.problems
        note = rerun_note(done, queries)
        print("\n".join(done.notes), end="\n" * bool(done.notes))
    if problems:
        tell(problems)
        raise CheckFailed(f"{len(problems)} problems.{note}")
    told = ", ".join(map(cells_of, built.loaded))
    files = f"{len(built.files)} rendered files"
    print(f"{len(built.loaded)} boards ({told}), {files}: all agree.{note}")


def _ignore(label: str) -> None:
    """Say nothing: cells that are measured again take seconds."""
