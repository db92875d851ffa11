"""What README and docs show below a command is what it prints, but for times, versions and columns
that they leave out.

A page marks it by ``<!-- output of: rbl ... -->`` in front of the block or table; ``<!-- slow
output of: ... -->`` where that takes longer than the default run allows.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from robustbench_lite.sources.card import load_card
from robustbench_lite.sources.model_zoo import bundled_networks
from tests.end_to_end.conftest import Rbl

ROOT = Path(__file__).parents[2]
_MARK = re.compile(
    r"<!-- (slow )?output of: (.+?) -->\n+(```\w*\n.*?```|(?:\|[^\n]*\n)+)", re.DOTALL
)
_TIME = re.compile(r"\b[\d.,]+ (s|min|h)\b")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _marked() -> list[object]:
    found: list[object] = []
    for page in PAGES:
        for number, (slow, command, shown) in enumerate(
            _MARK.findall(page.read_text(encoding="utf-8"))
        ):
            marks = [pytest.mark.slow] if slow else []
            found.append(
                pytest.param(command, shown, id=f"{page.relative_to(ROOT)}-{number}", marks=marks)
            )
    return found


def lines(text: str) -> list[list[str]]:
    """The words of each line that has some, without rulers and times."""
    rows = [_TIME.sub("TIME", line).replace("```", "").split() for line in text.splitlines()]
    return [row for row in rows if row and not all(set(word) <= set("-|:") for word in row)]


def cells(text: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by the names of their columns, without times."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    head, *body = [row for row in rows if not all(set(cell) <= set("-: ") for cell in row)]
    return [
        {name: cell for name, cell in zip(head, row, strict=True) if name != "time"} for row in body
    ]


def agrees(shown: str, printed: str) -> str | None:
    """What differs, or None. A table may leave out columns, and hyper-parameters behind a
    defense.
    """
    if not shown.startswith("|"):
        return (
            None if lines(shown) == lines(printed) else f"{lines(shown)}\nis not\n{lines(printed)}"
        )
    there, here = cells(shown), cells(printed)
    if len(there) != len(here):
        return f"{len(there)} rows, and {len(here)} are printed"
    for row, full in zip(there, here, strict=True):
        for name, cell in row.items():
            words = (
                full[name].split()[: len(cell.split())] if name == "defense" else full[name].split()
            )
            if cell.split() != words:
                return f"{row}: {name} is {full[name]!r}"
    return None


@pytest.mark.parametrize(("command", "shown"), _marked())
def test_what_a_page_shows_is_what_its_command_prints(
    rbl: Rbl, command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    program, *words = shlex.split(command)
    assert program == "rbl"
    result = rbl(*words)
    assert result.code == 0, result.err
    wrong = agrees(
        shown.removeprefix("```").strip() if shown.startswith("```") else shown, result.out
    )
    assert wrong is None, f"{wrong}\npaste anew:\n{result.out}"


def test_every_command_with_a_pasted_output_is_the_one_that_stands_above_it() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _MARK.finditer(text):
            above = " ".join(text[: match.start()].replace("\\\n", " ").split())
            assert " ".join(match[2].split()) in above, f"{page.relative_to(ROOT)}: {match[2]}"


def test_certified_errors_in_the_readme_are_those_of_the_cards() -> None:
    row = r"\| `--dataset (\w+) --method (\w+)` \| ([\d.]+)% \| ([\d.]+)% \|"
    shown = re.findall(row, (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(shown) == 4
    for dataset, method, clean, certified in shown:
        card = load_card(bundled_networks() / f"{dataset}-dual_network.json")
        (proved,) = [one for one in card.certified or [] if one.method == method]
        assert (proved.box, proved.norm, proved.eps, proved.n) == (False, "linf", 0.1, 10_000)
        assert f"{100 - 100 * proved.certified_accuracy:.2f}" == certified
        assert f"{100 - 100 * card.clean_accuracy:.2f}" == clean


def test_a_changed_cell_and_a_changed_line_are_seen() -> None:
    table = "| defense | n | time |\n| --- | --- | --- |\n| parseval | 0.5% [0.2, 1.2] | 1.0 s |\n"
    printed = table.replace("parseval", "parseval beta=0.5").replace("1.0 s", "2.0 s")
    assert agrees(table, printed) is None
    assert agrees(table.replace("0.5%", "0.6%"), printed) is not None
    assert agrees(table + table.splitlines()[-1] + "\n", printed) is not None
    assert agrees("model  n\n-----  ----\nnone   10\n", "model   n\n----  ---\nnone  10\n") is None
    assert agrees("took 1.0 s, key a", "took 33 s, key a") is None
    assert agrees("took 1.0 s, key a", "took 1.0 s, key b") is not None
