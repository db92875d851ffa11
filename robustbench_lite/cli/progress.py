"""The bar that stands on stderr while cells are measured, and is gone when the table comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_lite.progress import Progress


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar for the cell in work and, with several cells, one for all of them; each with time spent
    and time left.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Bar(
        *columns, console=console, transient=True, disable=hidden, redirect_stdout=False
    ) as bar:
        everything = bar.add_task("all cells", total=None, visible=False, left="left")
        current = bar.add_task("loading", total=None, left="")
        work: tuple[int, str] | None = None

        def tell(progress: Progress) -> None:
            nonlocal work
            if (progress.cell, progress.before) != work:
                # What an earlier run left done says nothing about the speed of this one: the clock
                # starts here.
                work = progress.cell, progress.before
                bar.reset(
                    current,
                    description=progress.label,
                    total=progress.of,
                    completed=int(progress.rows),
                    left="left",
                )
            bar.update(current, completed=progress.rows)
            done = progress.cell + (0 if progress.before else progress.rows / progress.of)
            bar.update(everything, visible=progress.cells > 1, total=progress.cells, completed=done)

        yield tell
