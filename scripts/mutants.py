"""Break one line at a time and see whether the tests go red: a test that cannot fail says nothing.

    python scripts/mutants.py             # all; continues where an earlier run was stopped
    python scripts/mutants.py --only bounds/      # those whose file or reason contains the text
    python scripts/mutants.py --check     # only whether every text is still there

The mutants stand in scripts/mutants/*.toml. Each names a file, a text that occurs in it exactly
once, what takes its place, why that would be a fault, and the tests that must notice it. A mutant
that no test can notice says so (``equivalent``) and is not run. Exit code 1: fewer than 95 % were
killed, or one could not be run; 2: a text is not there exactly once.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "scripts" / "mutants"
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
ENOUGH = 0.95
TIMEOUT = 900
"""Seconds for the tests of one mutant; a mutant that never ends is killed, too."""
_PRELOADED = (
    "torch",
    "torchvision",
    "scipy.stats",
    "scipy.ndimage",
    "pydantic",
    "pandas",
    "safetensors.torch",
    "matplotlib",
    "typer",
    "pytest",
)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
KILLED = "killed"
SURVIVED = "survived"
BROKEN = "broken"
# exit codes of pytest; the others are errors of collection or of use
_PASSED = 0
_FAILED = 1


class StaleError(Exception):
    """The list is not in step with the code."""


@dataclass(frozen=True)
class Mutant:
    """One change that is a fault."""

    file: str
    find: str
    replace: str
    why: str
    tests: tuple[str, ...]
    """Files or node ids, relative to the root."""
    equivalent: str = ""
    """Why no test can notice; such a mutant is not run."""

    @property
    def label(self) -> str:
        return f"{self.file}: {self.why}"

    def fingerprint(self) -> str:
        """Of the change, the file that it is made in, and the tests: what an earlier result holds
        for.
        """
        digest = hashlib.sha256(repr(self).encode())
        files = {self.file, "tests/conftest.py", *(test.partition("::")[0] for test in self.tests)}
        for path in sorted(files):
            whole = ROOT / path
            for part in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
                digest.update(part.read_bytes())
        return digest.hexdigest()[:16]

    def applied(self, source: str) -> str:
        """``source`` with the fault in it."""
        count = source.count(self.find)
        if count != 1 or self.find == self.replace:
            raise StaleError(
                f"{self.label}\n  the text is there {count} times, not once: {self.find!r}"
            )
        return source.replace(self.find, self.replace)

    def check(self) -> None:
        """Raise ``StaleError`` unless the text is there once, the result is Python, and the tests
        are there.
        """
        compile(self.applied((ROOT / self.file).read_text(encoding="utf-8")), self.file, "exec")
        for test in self.tests:
            path, *names = test.split("::")
            text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
            missing = [
                name
                for name in names
                if not re.search(rf"\b(def|class) {re.escape(name.partition('[')[0])}\b", text)
            ]
            if not (ROOT / path).exists() or missing:
                raise StaleError(f"{self.label}\n  there is no test {test}")


def read_lists() -> list[Mutant]:
    """Every mutant, in the order of the files."""
    lists = (
        tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(LISTS.glob("*.toml"))
    )
    return [
        Mutant(**entry | {"tests": tuple(entry["tests"])})
        for part in lists
        for entry in part["mutant"]
    ]


class Copy:
    """A copy of the project in which one mutant at a time lives, with a process that runs tests in
    it (:func:`serve`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        leave = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.sqlite*")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=leave)
            else:
                shutil.copy2(ROOT / name, folder / name)
        paths = [str(folder / name) for name in (".", "attacks", "defenses")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} | dict.fromkeys(
            _THREADS, "1"
        )
        self._server = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """The exit code of pytest (that of a failed test when time runs out), and what it said
        last.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        said = self.folder / "said.txt"
        self._server.stdin.write(json.dumps([str(said), *tests]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return code, "\n".join(
            said.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        )

    def close(self) -> None:
        """End the process."""
        self._server.kill()
        self._server.wait()

    def outcome(self, mutant: Mutant) -> tuple[str, str]:
        """What becomes of ``mutant``, and, where it is not killed, what pytest said last."""
        path = self.folder / mutant.file
        source = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutant.applied(source))
            code, said = self.run(mutant.tests)
        finally:
            self._write(path, source)
        if code == _FAILED:
            return KILLED, ""
        return (SURVIVED, "") if code == _PASSED else (BROKEN, said)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Compiled code is looked up by the second and the size, which two mutants may share.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()


def serve() -> None:
    """Run the tests that each line of the input names in a child of this process, and print its
    exit code.

    The children find the big packages in memory: to import them would take longer than most tests
    do. Nothing of this project is imported here, so that each child sees the files as they are.
    """
    for package in _PRELOADED:
        importlib.import_module(package)
    for line in sys.stdin:
        said, *tests = json.loads(line)
        child = os.fork()
        if not child:
            with open(said, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIMEOUT)
            pytest = importlib.import_module("pytest")
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
            sys.stdout.flush()
            os._exit(int(code))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(_FAILED if code < 0 else code, flush=True)  # killed by its alarm, or it crashed


class State:
    """Results so far, in a file: a run that is stopped goes on from there."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self._lock = Lock()
        self.known: dict[str, str] = (
            json.loads(path.read_text()) if path.exists() and not fresh else {}
        )

    def add(self, fingerprint: str, outcome: str) -> None:
        with self._lock:
            self.known[fingerprint] = outcome
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.known, indent=1, sort_keys=True))
            part.replace(self.path)


def measured(todo: Sequence[Mutant], state: State, jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Run ``todo``, ``jobs`` at a time, each in a copy of its own; first all tests without any
    fault.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        made = [Copy(_folder(Path(folder) / str(number))) for number in range(jobs)]
        for copy in made:
            copies.put(copy)
        _must_pass(made[0], sorted({test for mutant in todo for test in mutant.tests}))

        def one(mutant: Mutant, fingerprint: str) -> tuple[Mutant, str, str]:
            copy = copies.get()
            try:
                outcome, said = copy.outcome(mutant)
            finally:
                copies.put(copy)
            state.add(fingerprint, outcome)
            return mutant, outcome, said

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed(
                [pool.submit(one, mutant, mutant.fingerprint()) for mutant in todo]
            ):
                yield done.result()
        for copy in made:
            copy.close()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _must_pass(copy: Copy, tests: Sequence[str]) -> None:
    print(f"Without a fault: {len(tests)} tests and files of tests ...", flush=True)
    whole = [test for test in tests if "::" not in test or test.partition("::")[0] not in tests]
    code, said = copy.run(whole)
    if code != _PASSED:
        raise SystemExit(f"The tests do not pass without a fault:\n{said}")


def report(mutants: Sequence[Mutant], state: State) -> int:
    """Print what came of all; the exit code."""
    explained = [mutant for mutant in mutants if mutant.equivalent]
    results = {
        mutant: state.known.get(mutant.fingerprint(), "changed since")
        for mutant in mutants
        if not mutant.equivalent
    }
    count = Counter(results.values())
    rooms: dict[str, Counter[str]] = {}
    for mutant, outcome in results.items():
        parts = Path(mutant.file).parts
        room = (
            parts[1]
            if parts[0] == "robustbench_lite" and len(parts) > 2
            else Path(parts[0 if len(parts) > 2 else -1]).stem
        )
        rooms.setdefault(room, Counter())[outcome] += 1
    for room, part in sorted(rooms.items()):
        print(f"  {room:14} {part[KILLED]:3} of {part.total():3}")
    for mutant, outcome in results.items():
        if outcome != KILLED:
            print(f"{outcome}: {mutant.label}")
    print(
        f"{len(results)} mutants, {count[KILLED]} killed, {count[SURVIVED]} survived, "
        f"{count[BROKEN]} broken",
        end="",
    )
    print(
        f"; {len(explained)} more that no test can notice, each with its reason"
        if explained
        else ""
    )
    return int(count[KILLED] < ENOUGH * len(results) or count[BROKEN] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose file or reason contains this text")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument(
        "--check", action="store_true", help="only check that the list is in step with the code"
    )
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".mutants.json", help="where results are kept"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    mutants = [mutant for mutant in read_lists() if options.only in mutant.label]
    try:
        for mutant in mutants:
            mutant.check()
    except StaleError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        print(f"{len(mutants)} mutants, each in step with the code")
        return 0
    state = State(options.state, options.fresh)
    todo = [
        mutant
        for mutant in mutants
        if not mutant.equivalent and mutant.fingerprint() not in state.known
    ]
    started = time.monotonic()
    for number, (mutant, outcome, said) in enumerate(
        measured(todo, state, options.jobs) if todo else (), 1
    ):
        left = (time.monotonic() - started) / number * (len(todo) - number)
        ends = time.strftime("%H:%M", time.localtime(time.time() + left))
        print(f"{number}/{len(todo)}, ends about {ends}: {outcome:8} {mutant.label}", flush=True)
        if said:
            print(said)
    return report(mutants, state)


if __name__ == "__main__":
    sys.exit(main())
