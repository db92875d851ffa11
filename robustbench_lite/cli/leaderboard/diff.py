"""``rbl leaderboard diff``: what changed in the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_lite.cli.leaderboard.shared import ROOT, Root


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
    root: Root = ROOT,
) -> None:
    """Say what changed in the tables between two states of them."""
    from robustbench_lite.leaderboard.diff import changes, tables_at

    with tables_at(base, root) as before, tables_at(head, root) as after:
        print("\n".join(changes(before, after)) or "Nothing changed.")
