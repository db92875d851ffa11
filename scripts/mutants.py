"""Break one line at a time and see whether the tests go red: a test that cannot fail says nothing.

    python scripts/mutants.py                     # all of them; continues where an earlier run was stopped
    python scripts/mutants.py --only bounds/      # those whose file or reason contains the text
    python scripts/mutants.py --check             # only whether every text is still there; takes no time

The mutants stand in scripts/mutants/*.toml. Each names a file, a text that occurs in it exactly once, what takes its place,
why that would be a fault, and the tests that must notice it. A mutant that no test can notice says so (``equivalent``) and is
not run. Exit code 1: fewer than 95 % were killed, or one could not be run; 2: a text is not there exactly once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
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

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "scripts" / "mutants"
COPIED = ("robustbench_lite", "attacks", "defenses", "tests", "leaderboards", "pyproject.toml", "README.md")
"""What the tests need."""
ENOUGH = 0.95
TIMEOUT = 600.0
"""Seconds for the tests of one mutant; a mutant that never ends is killed, too."""
KILLED, SURVIVED, BROKEN = "killed", "survived", "broken"
_PASSED, _FAILED = 0, 1  # exit codes of pytest; the others are errors of collection or of use


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
        """Of the change, the file that it is made in, and the tests: what an earlier result holds for."""
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
            raise StaleError(f"{self.label}\n  the text is there {count} times, not once: {self.find!r}")
        return source.replace(self.find, self.replace)

    def check(self) -> None:
        """Raise ``StaleError`` unless the text is there once, the result is Python, and the tests are there."""
        compile(self.applied((ROOT / self.file).read_text(encoding="utf-8")), self.file, "exec")
        for test in self.tests:
            path, *names = test.split("::")
            text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
            missing = [name for name in names if not re.search(rf"\b(def|class) {re.escape(name.partition('[')[0])}\b", text)]
            if not (ROOT / path).exists() or missing:
                raise StaleError(f"{self.label}\n  there is no test {test}")


def read_lists() -> list[Mutant]:
    """Every mutant, in the order of the files."""
    lists = (tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(LISTS.glob("*.toml")))
    return [Mutant(**entry | {"tests": tuple(entry["tests"])}) for part in lists for entry in part["mutant"]]


class Copy:
    """A copy of the project in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        leave = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.sqlite*")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=leave)
            else:
                shutil.copy2(ROOT / name, folder / name)

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """The exit code of pytest (that of a failed test when time runs out), and what it said last."""
        paths = [str(self.folder / name) for name in (".", "attacks", "defenses")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            return _FAILED, "it took too long"
        return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])

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


class State:
    """Results so far, in a file: a run that is stopped goes on from there."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.known: dict[str, str] = json.loads(path.read_text()) if path.exists() and not fresh else {}

    def add(self, fingerprint: str, outcome: str) -> None:
        self.known[fingerprint] = outcome
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.known, indent=1, sort_keys=True))
        part.replace(self.path)


def measured(todo: Sequence[Mutant], state: State, jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Run ``todo``, ``jobs`` at a time, each in a copy of its own; first all tests without any fault."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            (Path(folder) / str(number)).mkdir()
            copies.put(Copy(Path(folder) / str(number)))
        _must_pass(copies, sorted({test for mutant in todo for test in mutant.tests}))

        def one(mutant: Mutant) -> tuple[Mutant, str, str]:
            copy = copies.get()
            try:
                return mutant, *copy.outcome(mutant)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(one, mutant) for mutant in todo]):
                mutant, outcome, said = done.result()
                state.add(mutant.fingerprint(), outcome)
                yield mutant, outcome, said


def _must_pass(copies: SimpleQueue[Copy], tests: Sequence[str]) -> None:
    copy = copies.get()
    print(f"Without a fault: {len(tests)} tests and files of tests ...", flush=True)
    whole = [test for test in tests if "::" not in test or test.partition("::")[0] not in tests]
    code, said = copy.run(whole)
    copies.put(copy)
    if code != _PASSED:
        raise SystemExit(f"The tests do not pass without a fault:\n{said}")


def report(mutants: Sequence[Mutant], state: State) -> int:
    """Print what came of all; the exit code."""
    explained = [mutant for mutant in mutants if mutant.equivalent]
    results = {mutant: state.known[mutant.fingerprint()] for mutant in mutants if not mutant.equivalent}
    count = Counter(results.values())
    rooms: dict[str, Counter[str]] = {}
    for mutant, outcome in results.items():
        parts = Path(mutant.file).parts
        room = parts[1] if parts[0] == "robustbench_lite" and len(parts) > 2 else Path(parts[0 if len(parts) > 2 else -1]).stem
        rooms.setdefault(room, Counter())[outcome] += 1
    for room, part in sorted(rooms.items()):
        print(f"  {room:14} {part[KILLED]:3} of {part.total():3}")
    for mutant, outcome in results.items():
        if outcome != KILLED:
            print(f"{outcome}: {mutant.label}")
    print(f"{len(results)} mutants, {count[KILLED]} killed, {count[SURVIVED]} survived, {count[BROKEN]} broken", end="")
    print(f"; {len(explained)} more that no test can notice, each with its reason" if explained else "")
    return int(count[KILLED] < ENOUGH * len(results) or count[BROKEN] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose file or reason contains this text")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--check", action="store_true", help="only check that the list is in step with the code")
    parser.add_argument("--state", type=Path, default=ROOT / ".mutants.json", help="where results are kept")
    options = parser.parse_args()
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
    todo = [mutant for mutant in mutants if not mutant.equivalent and mutant.fingerprint() not in state.known]
    started = time.monotonic()
    for number, (mutant, outcome, said) in enumerate(measured(todo, state, options.jobs) if todo else (), 1):
        left = (time.monotonic() - started) / number * (len(todo) - number)
        ends = time.strftime("%H:%M", time.localtime(time.time() + left))
        print(f"{number}/{len(todo)}, ends about {ends}: {outcome:8} {mutant.label}", flush=True)
        if said:
            print(said)
    return report(mutants, state)


if __name__ == "__main__":
    sys.exit(main())
