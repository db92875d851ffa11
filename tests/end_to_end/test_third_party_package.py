"""The package of docs/how_to/write_an_attack.md is installed as its reader would, and used by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "write_an_attack.md"


def run(*command: str, folder: Path, path: Path) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the page lies installed."""
    folder = tmp_path_factory.mktemp("package")
    blocks = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    assert set(blocks) == {"random_search.py", "pyproject.toml"}
    assert sum(len(block.splitlines()) for block in blocks.values()) < 60
    for name, block in blocks.items():
        (folder / name).write_text(block, encoding="utf-8")
    # What it depends on is here already: no index is asked, and the environment of the suite stays as it is.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--target", str(folder / "site"), ".", folder=folder, path=folder)
    return folder / "site"


def test_it_is_listed_beside_the_built_in_attacks(installed: Path, tmp_path: Path) -> None:
    assert "random_search" in run("rbl", "list", "attacks", folder=tmp_path, path=installed)


def test_it_runs_by_name(installed: Path, tmp_path: Path) -> None:
    arguments = ["-a", "random_search steps=5", "-d", "none", "--limit", "40", "--format", "json", "-q"]
    printed = run("rbl", "evaluate", *arguments, folder=tmp_path, path=installed)
    (cell,) = json.loads(printed)["cells"]
    assert cell["attack"] == "random_search steps=5"
    assert 1 <= cell["forward_queries_mean"] <= 5
