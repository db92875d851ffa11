"""``rbl leaderboard run``: measure what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Boards, Root, ShardOfN, means_from
from robustbench_lite.cli.progress import progress_bar

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.measure.run import Done

_A_CELL_FAILED = 3


def run(
    boards: Boards = None,
    root: Root = ROOT,
    networks: Annotated[str | None, opt.Networks] = None,
    shard: ShardOfN = "1/1",
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Cells side by side, a process each.")
    ] = 1,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete records that no board asks for any more.")
    ] = False,
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    device: Annotated[str, opt.Device] = "auto",
    batch_size: Annotated[str, opt.BatchSize] = "auto",
    allow_code: Annotated[bool, opt.BoardCode] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Measure what is missing or out of date, or is of a network that answers otherwise than the
    one at hand.

    Interrupted, the same command continues where it was.
    """
    from robustbench_lite.leaderboard.answers import of_other_networks
    from robustbench_lite.leaderboard.load import load
    from robustbench_lite.leaderboard.measure import run
    from robustbench_lite.leaderboard.measure.bench import Bench

    means = means_from(data_dir, download, device, batch_size, allow_code)
    loaded = load(root, boards or [], means.trust)
    part = run.Shard.parse(shard)
    others = {
        found.path.stem
        for one in loaded
        for found in of_other_networks(one, Bench(one.board, root, means))
    }
    planned = run.plan(loaded, root, part, others)
    failed = 0
    with progress_bar(quiet or jobs > 1) as on_progress:
        for number, done in enumerate(run.run(planned, root, means, jobs, on_progress), 1):
            failed += done.error is not None
            if not quiet or done.error:
                typer.echo(f"[{number}/{len(planned)}] {_line(done)}", err=True)
    gone = run.prune(load(root, boards or [], means.trust), root) if prune and not failed else []
    if not quiet:
        deleted = f", {len(gone)} files deleted" if gone else ""
        print(f"{len(planned) - failed} cells measured, {failed} failed{deleted}.")
    if failed:
        raise typer.Exit(_A_CELL_FAILED)


def _line(done: Done) -> str:
    """Say what became of one cell."""
    state = f"failed: {done.error}" if done.error else "done"
    return f"{done.planned.board}: {done.planned.label}: {state}"
