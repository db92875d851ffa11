"""Mutants in copies of the project, with the tests that must notice them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from mutant_lists import ROOT, Mutant
from mutant_server import FAILED, PASSED

SERVER = Path(__file__).with_name("mutant_server.py")
COPIED = (
    "robustbench_lite",
    "attacks",
    "defenses",
    "tests",
    "leaderboards",
    "pyproject.toml",
    "README.md",
)
"""What the tests need."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
KILLED = "killed"
SURVIVED = "survived"
BROKEN = "broken"


class Said(NamedTuple):
    """How pytest ended."""

    code: int
    text: str
    """Its last lines."""


class Outcome(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    state: str
    said: str = ""
    """What pytest said last, of one that is broken."""


class Copy:
    """A copy of the project in which one mutant at a time lives, with a process that runs tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        leave = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.sqlite*")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=leave)
            else:
                shutil.copy2(ROOT / name, folder / name)
        paths = [str(folder / name) for name in (".", "attacks", "defenses")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment |= dict.fromkeys(_THREADS, "1")
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, tests: Sequence[str]) -> Said:
        """Run tests; the code is that of a failed one when time runs out."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        said = self.folder / "said.txt"
        self._server.stdin.write(json.dumps([str(said), *tests]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
        return Said(code, "\n".join(lines[-15:]))

    def close(self) -> None:
        """End the process."""
        self._server.kill()
        self._server.wait()

    def try_out(self, mutant: Mutant) -> Outcome:
        """Put ``mutant`` in, run its tests, and take it out again."""
        path = self.folder / mutant.file
        source = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutant.apply_to(source))
            said = self.run(mutant.tests)
        finally:
            self._write(path, source)
        if said.code == FAILED:
            return Outcome(mutant, KILLED)
        if said.code == PASSED:
            return Outcome(mutant, SURVIVED)
        return Outcome(mutant, BROKEN, said.text)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Compiled code is looked up by the second and the size, which two mutants may share.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()


def try_all(todo: Sequence[Mutant], jobs: int) -> Iterator[Outcome]:
    """Run ``todo``, ``jobs`` at a time, each in a copy of its own.

    All tests run before, without any fault.
    """
    if not todo:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        made = [Copy(_make_folder(Path(folder) / str(number))) for number in range(jobs)]
        for copy in made:
            copies.put(copy)
        _must_pass(made[0], sorted({test for mutant in todo for test in mutant.tests}))

        def try_one(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return copy.try_out(mutant)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(try_one, mutant) for mutant in todo]):
                yield done.result()
        for copy in made:
            copy.close()


def _make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def _must_pass(copy: Copy, tests: Sequence[str]) -> None:
    """Leave the program unless all ``tests`` pass as the code is."""
    print(f"Without a fault: {len(tests)} tests and files of tests ...", flush=True)
    whole = [test for test in tests if "::" not in test or test.partition("::")[0] not in tests]
    said = copy.run(whole)
    if said.code != PASSED:
        raise SystemExit(f"The tests do not pass without a fault:\n{said.text}")
