"""The bars that stand on stderr while cells are measured or a network is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from robustbench_lite.progress import Progress
    from robustbench_lite.training.trainer import TrainingProgress


class _Cells:
    """A bar for the cell in work and, with several cells, one for all of them."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.every: TaskID = bar.add_task("all cells", total=None, visible=False, left="left")
        self.current: TaskID = bar.add_task("loading", total=None, left="")
        self.work: tuple[int, str] | None = None

    def show(self, progress: Progress) -> None:
        """Move both bars to where the work is."""
        if (progress.cell, progress.before) != self.work:
            self.work = progress.cell, progress.before
            self._restart(progress)
        self.bar.update(self.current, completed=progress.rows)
        done = progress.cell + (0 if progress.before else progress.rows / progress.of)
        self.bar.update(
            self.every, visible=progress.cells > 1, total=progress.cells, completed=done
        )

    def _restart(self, progress: Progress) -> None:
        """Start the clock of the next piece of work.

        What an earlier run left done says nothing about the speed of this one.
        """
        self.bar.reset(
            self.current,
            description=progress.label,
            total=progress.of,
            completed=int(progress.rows),
            left="left",
        )


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show bars for cells, each with time spent and time left; yields what moves them."""
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
        yield _Cells(bar).show


@contextmanager
def training_bar(
    name: str, epochs: int, quiet: bool
) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a bar for a training, with the loss and the time that is left; yields what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(name, total=None)

        def show(progress: TrainingProgress) -> None:
            steps = progress.steps_per_epoch
            done = progress.epoch * steps + progress.step
            text = f"{name}  epoch {progress.epoch + 1}/{epochs}  loss {progress.loss:.3f}"
            bar.update(task, description=text, total=epochs * steps, completed=done)

        yield show
