"""The hash of an implementation follows its code, and nothing but its code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_lite.leaderboard.lock import SourceText, bare, source_hash

MAIN = '''"""What it is."""

from __future__ import annotations

from lockable_{0} import helper  # of the same package


class Thing:
    """A thing."""

    steps = 3
    """How many."""

    def go(self) -> str:
        """Goes."""
        return helper.NAME + "# no comment"
'''


@pytest.fixture
def package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Path]]:
    """A package of two modules that no other test has imported."""
    name = f"lockable_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "main.py").write_text(MAIN.format(name.removeprefix("lockable_")))
    (folder / "helper.py").write_text("NAME = 'x'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield f"{name}.main", folder
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("main.py", "steps = 3", "steps = 4", True),
        ("main.py", '"# no comment"', '"# a comment"', True),
        ("helper.py", "'x'", "'y'", True),
        ("main.py", "# of the same package", "# elsewhere", False),
        ("main.py", '"""Goes."""', '"""Goes somewhere."""', False),
        ("main.py", '"""A thing."""\n', '"""A thing.\n\n    Two lines.\n    """\n', False),
        ("main.py", "    steps = 3\n", "    steps = 3  # three\n\n\n", False),
        ("main.py", '"""How many."""', '"""How many:\n    three."""', False),
        ("main.py", "steps = 3\n", "steps = 3; limit = 4\n", True),
        ("main.py", "steps = 3\n", "steps = 3; 'three'\n", True),
    ],
)
def test_code_counts_and_words_do_not(
    package: tuple[str, Path], file: str, old: str, new: str, changes: bool
) -> None:
    module, folder = package
    before, text = source_hash(module), (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert (source_hash(module) != before) is changes


def test_what_remains_is_code() -> None:
    assert bare(
        SourceText.parse(
            '"""Doc."""\nx = 1  # one\n\n\ndef f():\n    """Doc."""\n    return "# kept"\n'
        )
    ) == ('x = 1\ndef f():\n    return "# kept"')


def test_an_attack_of_several_files_is_hashed_with_all_of_them() -> None:
    from robustbench_lite.leaderboard.lock import _sources

    assert set(_sources("rbl_attacks.zoo.attack")) >= {
        "rbl_attacks.zoo.attack",
        "rbl_attacks.zoo.space",
        "rbl_attacks.zoo.update",
    }
    assert "rbl_attacks.pgd" not in _sources("rbl_attacks.zoo.attack")
