"""``rbl leaderboard``: measure, build and check the boards of a folder."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.board_text import cells_of, plan_table, rerun_note, tell
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.errors import CheckFailed, UnknownNameError, UsageError

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.measure.bench import Means

_A_CELL_FAILED = 3
_QUERIES = 10_000

app = typer.Typer(
    help="Boards that anyone can re-derive: plan, run, build, check, diff.", no_args_is_help=True
)
Boards = typer.Argument(
    metavar="[BOARD]...", show_default=False, help="Names of boards. Default: all."
)
Root = typer.Option("--root", metavar="DIR", help="The leaderboards folder.")
ShardOption = typer.Option("--shard", metavar="i/N", help="Every N-th cell only, from the i-th on.")
Names = Annotated[list[str] | None, Boards]
Folder = Annotated[Path, Root]


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """What is imported and read here stays to the end: looking through it for garbage every few
    hundred objects takes time.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@app.command("plan")
def plan(
    boards: Names = None,
    root: Folder = Path("leaderboards"),
    networks: Annotated[str | None, opt.Networks] = None,
    shard: Annotated[str, ShardOption] = "1/1",
    format_name: Annotated[
        str, typer.Option("--format", metavar="NAME", help="table, json or github-matrix.")
    ] = "table",
    shards: Annotated[
        int, typer.Option(metavar="N", min=1, help="Shards a board, for github-matrix.")
    ] = 8,
    allow_code: Annotated[bool, opt.BoardCode] = False,
) -> None:
    """Say which cells are missing or out of date. Needs no data, and measures nothing.

    github-matrix leaves out boards whose images neither come with the package nor can be
    downloaded.
    """
    if format_name not in ("table", "json", "github-matrix"):
        raise UnknownNameError("format", format_name, ("table", "json", "github-matrix"))
    from robustbench_lite.leaderboard.load import load
    from robustbench_lite.leaderboard.measure import run
    from robustbench_lite.sources.load_data import can_download

    loaded = load(root, boards or [], opt.trust_in_files(allow_code))
    planned = run.plan(loaded, root, run.Shard.parse(shard))
    if format_name == "github-matrix":
        here = [
            one for one in loaded if one.board.data.bundled or can_download(one.board.data.name)
        ]
        print(json.dumps({"include": run.shards_of(planned, here, shards)}))
    elif format_name == "json":
        print(json.dumps({"cells": [cell._asdict() for cell in planned]}, indent=1))
    else:
        print(plan_table(planned) if planned else "Every cell is measured.")


@app.command("run")
def run(
    boards: Names = None,
    root: Folder = Path("leaderboards"),
    networks: Annotated[str | None, opt.Networks] = None,
    shard: Annotated[str, ShardOption] = "1/1",
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

    means = _means(data_dir, download, device, batch_size, allow_code)
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
                state = f"failed: {done.error}" if done.error else "done"
                typer.echo(
                    f"[{number}/{len(planned)}] {done.planned.board}: {done.planned.label}: "
                    f"{state}",
                    err=True,
                )
    gone = run.prune(load(root, boards or [], means.trust), root) if prune and not failed else []
    if not quiet:
        print(
            f"{len(planned) - failed} cells measured, {failed} "
            f"failed{f', {len(gone)} files deleted' if gone else ''}."
        )
    if failed:
        raise typer.Exit(_A_CELL_FAILED)


@app.command("build")
@_seldom_collecting()
def build(
    root: Folder = Path("leaderboards"),
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.BoardCode] = False,
) -> None:
    """Render every table and the page from boards and records, the same bytes on any machine."""
    from robustbench_lite.leaderboard.build import build as render
    from robustbench_lite.leaderboard.build import write

    built = render(root, opt.trust_in_files(allow_code))
    if built.problems:
        tell(built.problems)
        raise CheckFailed(f"{len(built.problems)} records cannot be believed: nothing was written.")
    changed = write(root, built.files)
    print("\n".join(str(root / name) for name in changed) or "Everything is up to date.")


@app.command("check")
@_seldom_collecting()
def check(
    root: Folder = Path("leaderboards"),
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

        means = _means(data_dir, download, device, "auto", allow_code)
        done = again(built.loaded, root, Choice(rerun, queries, salt), means, _silent)
        problems += done.problems
        note = rerun_note(done, queries)
        print("\n".join(done.notes), end="\n" * bool(done.notes))
    if problems:
        tell(problems)
        raise CheckFailed(f"{len(problems)} problems.{note}")
    told = ", ".join(map(cells_of, built.loaded))
    files = f"{len(built.files)} rendered files"
    print(f"{len(built.loaded)} boards ({told}), {files}: all agree.{note}")


@app.command("migrate")
def migrate(
    boards: Names = None,
    root: Folder = Path("leaderboards"),
    networks: Annotated[str | None, opt.Networks] = None,
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    device: Annotated[str, opt.Device] = "auto",
    allow_code: Annotated[bool, opt.AllowCode] = False,
) -> None:
    """Bring the records of boards to the schema of this version, with what the networks at hand
    answer.

    Keys, digests and tables stay. Exit 1 if a record is refused. Interrupted, the same command
    continues.
    """
    from robustbench_lite.cli.migrate import tell as tell_migrated
    from robustbench_lite.leaderboard.board import load_boards
    from robustbench_lite.leaderboard.migration import migrate as run

    means = _means(data_dir, download, device, "auto", allow_code)
    loaded = load_boards(root, boards or [])
    tell_migrated(one for board in loaded for one in run(board, root, means))


@app.command("diff")
def diff(
    base: Annotated[
        str, typer.Argument(metavar="BASE", show_default=False, help="A git revision or a folder.")
    ],
    head: Annotated[
        str | None,
        typer.Argument(
            metavar="HEAD", show_default=False, help="Another; default: the folder as it is."
        ),
    ] = None,
    root: Folder = Path("leaderboards"),
) -> None:
    """Say what changed in the tables between two states of them."""
    from robustbench_lite.leaderboard.diff import changes, tables_at

    with tables_at(base, root) as before, tables_at(head, root) as after:
        print("\n".join(changes(before, after)) or "Nothing changed.")


@app.command("lock")
def lock(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", show_default=False, help="With --same-verdicts: which."
        ),
    ] = None,
    same_verdicts: Annotated[
        bool,
        typer.Option("--same-verdicts", help="The changed source of NAME can change no verdict."),
    ] = False,
    root: Folder = Path("leaderboards"),
    allow_code: Annotated[bool, opt.BoardCode] = False,
) -> None:
    """Lock the sources of the attacks and defenses that the boards name, after a version was
    raised.
    """
    from robustbench_lite.leaderboard.board import load_boards
    from robustbench_lite.leaderboard.lock import lock as write
    from robustbench_lite.leaderboard.slots import expand

    if bool(names) != same_verdicts:
        raise UsageError(
            "NAME and --same-verdicts go together: say of which attack or defense no verdict can "
            "change."
        )
    slots = [
        slot
        for board in load_boards(root)
        for slot in expand(board, root, opt.trust_in_files(allow_code))
    ]
    print("\n".join(write(root, slots, names or [])) or "Nothing to lock anew.")


def _means(
    data_dir: Path | None, download: bool, device: str, batch_size: str, allow_code: bool
) -> Means:
    from robustbench_lite.cli import arguments as shared
    from robustbench_lite.leaderboard.measure.bench import Means

    size = shared.batch_size(batch_size)
    return Means(
        data_dir=data_dir,
        download=download,
        device=device,
        batch_size=None if size == "auto" else size,
        trust=opt.trust_in_files(allow_code),
    )


def _silent(label: str) -> None:
    """Cells that are measured again take seconds."""
