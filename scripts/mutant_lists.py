"""The mutants of scripts/mutants/*.toml: what each changes, and whether it still can."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "scripts" / "mutants"


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
        """Hash what an earlier result holds for: the change, its file, and the tests."""
        digest = hashlib.sha256(repr(self).encode())
        files = {self.file, "tests/conftest.py", *(test.partition("::")[0] for test in self.tests)}
        for path in sorted(files):
            whole = ROOT / path
            for part in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
                digest.update(part.read_bytes())
        return digest.hexdigest()[:16]

    def apply_to(self, source: str) -> str:
        """Put the fault into ``source``.

        Raises:
            StaleError: the text is not there exactly once.
        """
        count = source.count(self.find)
        if count != 1 or self.find == self.replace:
            raise StaleError(
                f"{self.label}\n  the text is there {count} times, not once: {self.find!r}"
            )
        return source.replace(self.find, self.replace)

    def check(self) -> None:
        """Make sure that the text is there once, the result is Python, and the tests are there.

        Raises:
            StaleError: a text or a test is not there.
            SyntaxError: the result is no Python.
        """
        compile(self.apply_to((ROOT / self.file).read_text(encoding="utf-8")), self.file, "exec")
        for test in self.tests:
            if not _is_there(test):
                raise StaleError(f"{self.label}\n  there is no test {test}")


def _is_there(test: str) -> bool:
    """Look for a test by its node id, without running anything."""
    file, *names = test.split("::")
    path = ROOT / file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    bare = [re.escape(name.partition("[")[0]) for name in names]
    return path.exists() and all(re.search(rf"\b(def|class) {name}\b", text) for name in bare)


def read_lists() -> list[Mutant]:
    """Read every mutant, in the order of the files."""
    mutants: list[Mutant] = []
    for path in sorted(LISTS.glob("*.toml")):
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
        mutants += [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]
    return mutants
