"""``rbl leaderboard plan``: what is to measure."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Boards, Root, ShardOfN
from robustbench_lite.cli.leaderboard.text import plan_table
from robustbench_lite.errors import UnknownNameError

_FORMATS = ("table", "json", "github-matrix")


def plan(
    boards: Boards = None,
    root: Root = ROOT,
    networks: Annotated[str | None, opt.Networks] = None,
    shard: ShardOfN = "1/1",
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
    if format_name not in _FORMATS:
        raise UnknownNameError("format", format_name, _FORMATS)
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
