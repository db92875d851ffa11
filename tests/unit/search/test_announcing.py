"""Who waits for a search hears of it now and then, and nobody is asked for who does not wait."""

from __future__ import annotations

import pytest

from robustbench_lite.search.announcing import Announcer


def test_it_is_never_due_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Announcer, "SECONDS", -1.0)
    announcer = Announcer(None)
    assert not announcer.due
    announcer.announce(1)


def test_it_is_due_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[float] = []
    announcer = Announcer(heard.append)
    monkeypatch.setattr(Announcer, "SECONDS", float("inf"))
    assert not announcer.due
    monkeypatch.setattr(Announcer, "SECONDS", -1.0)
    assert announcer.due
    announcer.announce(2.5)
    assert heard == [2.5]
