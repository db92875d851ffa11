"""Measure the cells of boards that are missing or out of date: in this process or several, all of them or a shard."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from robustbench_lite.errors import RobustBenchError, UsageError
from robustbench_lite.leaderboard.bench import Bench, Means
from robustbench_lite.leaderboard.board import load_boards
from robustbench_lite.leaderboard.build import Loaded
from robustbench_lite.leaderboard.results import CELLS, FITS, GALLERY, results_folder
from robustbench_lite.leaderboard.slots import CURVE
from robustbench_lite.numerals import parse_whole
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


def plan(
    loaded: Sequence[Loaded],
    root: Path,
    shard: Shard = Shard(),  # noqa: B008 -- immutable
    others: Container[str] = (),
) -> list[Planned]:
    """What is missing or out of date, board by board. Which shard a cell is in depends on the board alone.

    ``others``: keys of records whose network answers otherwise than they say.
    """
    planned = []
    for board, filled, _ in loaded:
        seen: set[str] = set()
        for number, (slot, found) in enumerate(zip(filled.slots, filled.found, strict=True)):
            same = slot.expected.model_dump_json()
            if same in seen or not shard.holds(len(seen)):
                seen.add(same)
                continue
            seen.add(same)
            picture = results_folder(board, root) / GALLERY / (found.path.name if found else "")
            shown = (
                bool(board.gallery)
                and not slot.column.startswith(f"{CURVE}/")
                and found is not None
                and bool(found.arrays.broken.any())
            )
            if found is None:
                planned.append(Planned(board.name, number, slot.label, slot.n, filled.reason(number)))
            elif found.record.key in others:
                planned.append(Planned(board.name, number, slot.label, slot.n, "the network at hand answers otherwise"))
            elif shown and not picture.exists():
                planned.append(Planned(board.name, number, slot.label, slot.n, "no gallery"))
    return planned


def shards_of(planned: Sequence[Planned], loaded: Sequence[Loaded], of: int) -> list[dict[str, str]]:
    """The shards, out of ``of`` a board, that have something to do: the ``include`` of a GitHub matrix."""
    busy = []
    for board, filled, _ in loaded:
        order: dict[str, int] = {}
        for slot in filled.slots:
            order.setdefault(slot.expected.model_dump_json(), len(order))
        wanted = {order[filled.slots[p.slot].expected.model_dump_json()] % of for p in planned if p.board == board.name}
        busy += [{"board": board.name, "shard": f"{number + 1}/{of}"} for number in sorted(wanted)]
    return busy


def run(
    planned: Sequence[Planned], root: Path, means: Means, jobs: int, on_progress: Callable[[Progress], None] | None = None
) -> Iterator[Done]:
    """Measure ``planned``; a cell that fails does not stop the others."""
    if jobs == 1 or len(planned) < 2:
        return _here(planned, root, means, on_progress)
    return _side_by_side(planned, root, means, min(jobs, len(planned)))


def _here(
    planned: Sequence[Planned], root: Path, means: Means, on_progress: Callable[[Progress], None] | None
) -> Iterator[Done]:
    benches: dict[str, Bench] = {}
    for cell in planned:
        if cell.board not in benches:
            benches[cell.board] = Bench(load_boards(root, [cell.board])[0], root, means)
        yield _measured(benches[cell.board], cell, on_progress)


def _measured(bench: Bench, cell: Planned, on_progress: Callable[[Progress], None] | None) -> Done:
    try:
        slot = bench.slots[cell.slot]
        found = bench.measure(slot, on_progress)
        if not slot.column.startswith(f"{CURVE}/"):
            bench.show(slot, found)
    except RobustBenchError as error:
        return Done(cell, str(error))
    return Done(cell, None)


def _side_by_side(planned: Sequence[Planned], root: Path, means: Means, jobs: int) -> Iterator[Done]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")  # a fork would inherit the locks of torch's threads
    with ProcessPoolExecutor(jobs, context, _start, (root, means, threads)) as pool:
        waiting: list[Future[Done]] = [pool.submit(_work, cell) for cell in planned]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_BENCHES: dict[str, Bench] = {}
_START: list[tuple[Path, Means]] = []
"""Of a worker process: it is told once where to work, and keeps data and networks from cell to cell."""


def _start(root: Path, means: Means, threads: int) -> None:
    import torch

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _START.append((root, means))


def _end_with_parent() -> None:
    """A parent that was killed tells nobody: without this its workers would go on, and the next run beside them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(cell: Planned) -> Done:
    root, means = _START[-1]
    if cell.board not in _BENCHES:
        _BENCHES[cell.board] = Bench(load_boards(root, [cell.board])[0], root, means)
    return _measured(_BENCHES[cell.board], cell, None)


def prune(loaded: Sequence[Loaded], root: Path) -> list[Path]:
    """Delete the records that no board asks for, with what lies beside them, and those that were replaced; what is gone."""
    gone = []
    for board, filled, _ in loaded:
        folder = results_folder(board, root)
        for found in filled.unused:
            beside = [folder / GALLERY / found.path.name, folder / FITS / f"{found.record.key}.safetensors"]
            for path in (folder / CELLS / found.path.name, *beside):
                if path.exists():
                    path.unlink()
                    gone.append(path)
        for path in sorted((folder / REPLACED).glob("*")):
            path.unlink()
            gone.append(path)
    return gone
