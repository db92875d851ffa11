"""The published document reads back as it was written; other versions can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.errors import UsageError
from robustbench_lite.leaderboard.diff import changes, tables_at
from robustbench_lite.leaderboard.render.tables import as_json
from robustbench_lite.leaderboard.standing.document import Document, Missing
from robustbench_lite.leaderboard.standing.sheet import Sheet
from robustbench_lite.leaderboard.standing.summary import document
from tests.unit.leaderboard.conftest import cell

Make = Callable[..., Sheet]
TABLES = Path(__file__).parents[3] / "leaderboards" / "tables"


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_document_reads_back_to_the_byte(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert as_json(Document.model_validate_json(text)) == text


def test_a_document_with_gaps_reads_back(sheet: Make) -> None:
    one = cell("d", "one", "11", "10", certified="10")
    two = cell("e", "two", "11", "11", eps=None, norm="l2")
    doc = document(sheet(one, two))
    standings = [standing for row in doc.rows for standing in row.threats.values()]
    assert any(isinstance(standing.worst, Missing) for standing in standings)
    assert Document.model_validate_json(as_json(doc)) == doc


def write(folder: Path, content: Any) -> Path:
    (folder / "tables").mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "tables" / "b.json").write_text(text)
    return folder


def test_other_versions_are_compared_by_what_they_show(tmp_path: Path, sheet: Make) -> None:
    content = json.loads(as_json(document(sheet(cell("d", "one", "11", "10")))))
    old = json.loads(json.dumps(content))
    del old["seed"], old["n"], old["rows"][0]["threats"]["linf/0.1/untargeted"]["open"]
    old["rows"][0]["more"] = 1
    old["rows"][0]["clean"] = {"missing": "not measured"}
    before, after = write(tmp_path / "old", old), write(tmp_path / "new", content)
    with tables_at(str(before), tmp_path) as base, tables_at(None, after) as head:
        assert changes(base, head) == ["b: net-d (d), clean: - -> 100.0 % (n = 2)"]


FOREIGN = ("[", "[]", "{}", '{"rows": [1], "threats": []}', '{"rows": 1}')


@pytest.mark.parametrize("content", FOREIGN)
def test_what_is_no_document_is_refused(tmp_path: Path, content: str) -> None:
    root = write(tmp_path / "other", content)
    message = r"b\.json is no table as `rbl leaderboard build` writes"
    with pytest.raises(UsageError, match=message), tables_at(None, root):
        pass


def test_a_row_that_lacks_a_threat_model_is_refused(tmp_path: Path, sheet: Make) -> None:
    content = json.loads(as_json(document(sheet(cell("d", "one", "11", "10")))))
    content["rows"][0]["threats"] = {}
    root = write(tmp_path / "other", content)
    with pytest.raises(UsageError, match="is not in it"), tables_at(None, root):
        pass
