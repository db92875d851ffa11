"""What the commands of ``rbl leaderboard`` share: options, and how cells are measured."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.measure.bench import Means

Boards = Annotated[
    list[str] | None,
    typer.Argument(metavar="[BOARD]...", show_default=False, help="Names of boards. Default: all."),
]
Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="The leaderboards folder.")]
ShardOfN = Annotated[
    str,
    typer.Option("--shard", metavar="i/N", help="Every N-th cell only, from the i-th on."),
]
ROOT = Path("leaderboards")


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Look for garbage seldom.

    What is imported and read here stays to the end, and to look through it every few hundred
    objects takes time.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def means_from(
    data_dir: Path | None, download: bool, device: str, batch_size: str, allow_code: bool
) -> Means:
    """Turn the options of a command into how cells are measured."""
    from robustbench_lite.cli import arguments
    from robustbench_lite.leaderboard.measure.bench import Means

    size = arguments.batch_size(batch_size)
    return Means(
        data_dir=data_dir,
        download=download,
        device=device,
        batch_size=None if size == "auto" else size,
        trust=opt.trust_in_files(allow_code),
    )
