"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import rbl_attacks
import rbl_defenses
import robustbench_lite


def _examples() -> Iterator[doctest.DocTest]:
    """The doctests of every module with a prompt in it; the other modules are not imported."""
    for package in (robustbench_lite, rbl_attacks, rbl_defenses):
        (folder,) = map(Path, package.__path__)
        for path in sorted(folder.rglob("*.py")):
            if ">>> " not in path.read_text(encoding="utf-8"):
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            module = import_module(
                ".".join([package.__name__, *(part for part in parts if part != "__init__")])
            )
            yield from (test for test in doctest.DocTestFinder().find(module) if test.examples)


EXAMPLES = list(_examples())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    result = runner.run(example, out=said.append, clear_globs=False)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)
