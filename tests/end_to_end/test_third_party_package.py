"""The packages of docs/how_to/write_an_attack.md and write_a_defense.md are installed as by their
readers, and run by name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "how_to"


def run(*command: str, folder: Path, path: Path) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(page: str, module: str, folder: Path) -> Path:
    """Where the package of a page lies installed."""
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    assert set(blocks) == {module, "pyproject.toml"}
    assert sum(len(block.splitlines()) for block in blocks.values()) < 60
    for name, block in blocks.items():
        (folder / name).write_text(block, encoding="utf-8")
    # What it depends on is here already: no index is asked, and the environment of the suite stays
    # as it is.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    run(*pip, "--target", str(folder / "site"), ".", folder=folder, path=folder)
    return folder / "site"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("write_an_attack.md", "random_search.py", tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="module")
def defense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("write_a_defense.md", "dither.py", tmp_path_factory.mktemp("defense"))


def test_it_is_listed_beside_the_built_in_attacks(installed: Path, tmp_path: Path) -> None:
    assert "random_search" in run("rbl", "list", "attacks", folder=tmp_path, path=installed)


def test_it_runs_by_name(installed: Path, tmp_path: Path) -> None:
    arguments = [
        "-a",
        "random_search steps=5",
        "-d",
        "none",
        "--limit",
        "40",
        "--format",
        "json",
        "-q",
    ]
    printed = run("rbl", "evaluate", *arguments, folder=tmp_path, path=installed)
    (cell,) = json.loads(printed)["cells"]
    assert cell["attack"] == "random_search steps=5"
    assert 1 <= cell["forward_queries_mean"] <= 5


def test_the_defense_is_listed_beside_the_built_in_ones(defense: Path, tmp_path: Path) -> None:
    assert "dither" in run("rbl", "list", "defenses", folder=tmp_path, path=defense)


def test_the_defense_is_attacked_adaptively_and_composed_by_name(
    defense: Path, tmp_path: Path
) -> None:
    arguments = [
        "-a",
        "pgd steps=5",
        "-d",
        "dither levels=3",
        "-d",
        "parseval + dither",
        "--plain",
        "--limit",
        "40",
    ]
    printed = run(
        "rbl", "evaluate", *arguments, "--format", "json", "-q", folder=tmp_path, path=defense
    )
    cells = json.loads(printed)["cells"]
    assert [cell["defense"].split()[0] for cell in cells] == [
        "dither",
        "dither",
        "parseval+dither",
        "parseval+dither",
    ]
    assert [cell["adaptive"] for cell in cells] == [True, False, True, False]
    adaptive, plain = cells[:2]
    assert plain["robust_accuracy"] > adaptive["robust_accuracy"] + 0.3
    assert any("masked gradients" in flag for flag in plain["flags"])
    assert (
        adaptive["forward_queries_mean"] > 2 * plain["forward_queries_mean"]
    )  # draws, and passes of the surrogate
