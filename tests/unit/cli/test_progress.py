"""The progress bar keeps out of the way."""

from __future__ import annotations

import pytest

from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.progress import Progress

STEPS = [
    Progress(0, 2, 0.0, 10, "none x pgd"),
    Progress(0, 2, 10.0, 10, "none x pgd"),
    Progress(1, 2, 4.0, 10, "none x fgsm"),
]


def test_nothing_is_drawn_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(quiet=False) as tell:
        for step in STEPS:
            tell(step)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_cell_in_work_on_stderr_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar(quiet=False) as tell:
        for step in STEPS:
            tell(step)
    out, err = capsys.readouterr()
    assert out == ""
    assert "none x fgsm" in err
    assert "all cells" in err
