"""The Python that README and docs show runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(block, "<documentation>", "exec", dont_inherit=True)
    exec(code, {"__name__": "documentation"})  # noqa: S102 -- a page of this repository


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/explanation/design.md"])
def test_code_that_is_named_by_its_place_is_there(page: str) -> None:
    named = re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?)`", (ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 10
    homes = [ROOT, ROOT / "robustbench_lite", ROOT / "robustbench_lite" / "leaderboard"]
    assert not [name for name in named if not any((home / name).exists() for home in homes)]


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
