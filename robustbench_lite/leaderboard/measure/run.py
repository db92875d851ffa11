"""Measure the cells of boards that are missing or out of date.

That is done in this process or several, for all of them or a shard.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from robustbench_lite.errors import RobustBenchError, UsageError
from robustbench_lite.files.numerals import parse_whole
from robustbench_lite.leaderboard.board import load_boards
from robustbench_lite.leaderboard.load import Loaded
from robustbench_lite.leaderboard.measure.bench import Bench, Means
from robustbench_lite.leaderboard.measure.repeat import keep_examples
from robustbench_lite.leaderboard.results import CELLS, FITS, GALLERY, results_folder
from robustbench_lite.progress import Progress
from robustbench_lite.records.files import REPLACED


class Shard(NamedTuple):
    """Every ``of``-th cell of a board, from the ``number``-th on; counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/4``."""
        number, of = (parse_whole(part) for part in text.partition("/")[::2])
        if number is None or of is None or not 1 <= number <= of:
            raise UsageError(f"--shard is {text!r}; write i/N with 1 <= i <= N, such as 2/4.")
        return cls(number, of)

    def holds(self, position: int) -> bool:
        """Whether the cell at that position of a board, from 0 on, is in it."""
        return position % self.of == self.number - 1


class Planned(NamedTuple):
    """A cell that is to be measured, or shown in the gallery."""

    board: str
    slot: int
    label: str
    n: int
    state: str


class Done(NamedTuple):
    """A cell that was worked on."""

    planned: Planned
    error: str | None


_ALL = Shard()


def plan(
    loaded: Sequence[Loaded],
    root: Path,
    shard: Shard = _ALL,
    others: Container[str] = (),
) -> list[Planned]:
    """What is missing or out of date, board by board.

    Which shard a cell is in depends on the board alone.

    Args:
        loaded: the boards.
        root: their folder.
        shard: the part of each board that is looked at.
        others: keys of records whose network answers otherwise than they say.
    """
    planned = []
    for one in loaded:
        seen: set[str] = set()
        for number, slot in enumerate(one.filled.slots):
            same = slot.expected.model_dump_json()
            if same not in seen and shard.holds(len(seen)):
                state = _state(one, number, root, others)
                if state is not None:
                    planned.append(Planned(one.board.name, number, slot.label, slot.n, state))
            seen.add(same)
    return planned


def _state(one: Loaded, number: int, root: Path, others: Container[str]) -> str | None:
    """Why there is something to do for a slot; None where there is not."""
    found = one.filled.found[number]
    if found is None:
        return one.filled.reason(number)
    if found.record.key in others:
        return "the network at hand answers otherwise"
    on_page = one.board.gallery and not one.filled.slots[number].on_curve
    examples = results_folder(one.board, root) / GALLERY / found.path.name
    if on_page and found.arrays.broken.any() and not examples.exists():
        return "no gallery"
    return None


def shards_of(
    planned: Sequence[Planned], loaded: Sequence[Loaded], of: int
) -> list[dict[str, str]]:
    """The shards, out of ``of`` a board, that have something to do.

    Returns:
        The ``include`` of a GitHub matrix.
    """
    busy = []
    for one in loaded:
        name = one.board.name
        identities = [slot.expected.model_dump_json() for slot in one.filled.slots]
        order = {same: number for number, same in enumerate(dict.fromkeys(identities))}
        wanted = {order[identities[cell.slot]] % of for cell in planned if cell.board == name}
        busy += [{"board": name, "shard": f"{number + 1}/{of}"} for number in sorted(wanted)]
    return busy


OnProgress = Callable[[Progress], None] | None


def run(
    planned: Sequence[Planned],
    root: Path,
    means: Means,
    jobs: int,
    on_progress: OnProgress = None,
) -> Iterator[Done]:
    """Measure ``planned``; a cell that fails does not stop the others."""
    if jobs == 1 or len(planned) < 2:
        return _run_here(planned, root, means, on_progress)
    return _run_side_by_side(planned, root, means, min(jobs, len(planned)))


def _run_here(
    planned: Sequence[Planned],
    root: Path,
    means: Means,
    on_progress: OnProgress,
) -> Iterator[Done]:
    benches = Benches(root, means)
    for cell in planned:
        yield _measure(benches.bench(cell.board), cell, on_progress)


class Benches:
    """The boards of a folder, each read once: data and networks are kept from cell to cell."""

    def __init__(self, root: Path, means: Means) -> None:
        self._root = root
        self._means = means
        self._known: dict[str, Bench] = {}

    def bench(self, board: str) -> Bench:
        """That of a board."""
        if board not in self._known:
            (loaded,) = load_boards(self._root, [board])
            self._known[board] = Bench(loaded, self._root, self._means)
        return self._known[board]


def _measure(bench: Bench, cell: Planned, on_progress: OnProgress) -> Done:
    try:
        slot = bench.slots[cell.slot]
        found = bench.measure(slot, on_progress)
        if not slot.on_curve:
            keep_examples(bench, slot, found)
    except RobustBenchError as error:
        return Done(cell, str(error))
    return Done(cell, None)


def _run_side_by_side(
    planned: Sequence[Planned],
    root: Path,
    means: Means,
    jobs: int,
) -> Iterator[Done]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A fork would inherit the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (root, means, threads)) as pool:
        waiting: list[Future[Done]] = [pool.submit(_work, cell) for cell in planned]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_BENCHES: list[Benches] = []
"""Of a worker process, which is told once where to work."""


def _start(root: Path, means: Means, threads: int) -> None:
    import torch

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _BENCHES.append(Benches(root, means))


def _end_with_parent() -> None:
    """Let a worker end when its parent does.

    A parent that was killed tells nobody: without this its workers would go on, and the next run
    beside them.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(cell: Planned) -> Done:
    return _measure(_BENCHES[-1].bench(cell.board), cell, None)


def prune(loaded: Sequence[Loaded], root: Path) -> list[Path]:
    """Delete the records that no board asks for, with what lies beside them, and replaced ones.

    Returns:
        The files that are gone.
    """
    gone = []
    for one in loaded:
        folder = results_folder(one.board, root)
        for found in one.filled.unused:
            name = found.path.name
            fit = f"{found.record.key}.safetensors"
            gone += [folder / CELLS / name, folder / GALLERY / name, folder / FITS / fit]
        gone += sorted((folder / REPLACED).glob("*"))
    gone = [path for path in gone if path.exists()]
    for path in gone:
        path.unlink()
    return gone
