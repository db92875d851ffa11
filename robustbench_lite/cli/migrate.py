"""``rbl migrate``: records of an earlier version, made readable for this one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.errors import CheckFailed

if TYPE_CHECKING:
    from robustbench_lite.records.migration import Migrated


def migrate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", show_default=False, help="Of records; or one file."),
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Tracebacks.")
    ] = False,
) -> None:
    """Bring records of schema version 1 to version 2, in place; keys and digests stay. Exit 1 if
    one is refused.

    Such a record does not say how its network answers: it is shown as before, and `rbl evaluate`
    measures its cell anew. Interrupted, the same command continues. For the records of boards: `rbl
    leaderboard migrate`.
    """
    from robustbench_lite.records.migration import files_of
    from robustbench_lite.records.migration import migrate as run

    tell(run(files_of(folders)))


def tell(files: Iterable[Migrated]) -> None:
    """Print what became of the files; exit 1 if one was refused."""
    count = {"migrated": 0, "current": 0, "refused": 0}
    for path, state, reason in files:
        count[state] += 1
        if state != "current":
            print(f"{state} {path}{f': {reason}' if reason else ''}")
    said = f"{count['migrated']} migrated, {count['current']} current, {count['refused']} refused."
    if count["refused"]:
        raise CheckFailed(said)
    print(said)
