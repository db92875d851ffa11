"""``rbl leaderboard migrate``: records of boards, made readable for this version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Boards, Root, means_from
from robustbench_lite.cli.migrate import tell


def migrate(
    boards: Boards = None,
    root: Root = ROOT,
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
    from robustbench_lite.leaderboard.board import load_boards
    from robustbench_lite.leaderboard.migration import migrate as run

    means = means_from(data_dir, download, device, "auto", allow_code)
    loaded = load_boards(root, boards or [])
    tell(one for board in loaded for one in run(board, root, means))
