"""``rbl leaderboard lock``: note the sources of attacks and defenses."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Root
from robustbench_lite.errors import UsageError


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
    root: Root = ROOT,
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
