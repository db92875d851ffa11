"""What a reader sees of a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.cli import tables
from robustbench_lite.errors import UnknownNameError
from robustbench_lite.evaluation.report import Cell, Report
from robustbench_lite.records.identity import DataId, Identity, ModelId, PluginId, ThreatId
from robustbench_lite.records.outcomes import CellArrays


def cell(eps: float | None = 0.1, status: str = "complete", **changes: object) -> Cell:
    """Four samples: wrong, broken at 0.25, robust, robust."""
    plugin = PluginId(name="some", version=1, parameters={})
    identity = Identity(
        model=ModelId(name="net", weights_sha256="0", architecture_sha256="0"),
        defense=plugin,
        attack=plugin,
        threat=ThreatId(norm="linf", eps=eps, eps_written=None, goal="untargeted"),
        data=DataId(name="data", split="test", fingerprint="0", id_ranges=[(0, 4)]),
        seed=0,
    )
    arrays = CellArrays(
        np.array([False, True, True, True]),
        np.array([False, True, False, False]),
        np.array([0, 0.25, np.nan, np.nan], np.float32),
        np.array([0, 3, 5, 7], np.int32),
        np.array([0, 2, 4, 6], np.int32),
    )
    whole: dict[str, object] = {"n": 4, "arrays": arrays, "path": Path("out/cells/a.json")}
    return Cell(identity, "net", "none", "pgd", status, **(whole | changes))  # type: ignore[arg-type]


def test_the_table_shows_both_accuracies_the_interval_and_the_queries() -> None:
    text = tables.render(Report([cell()]), "table")
    for shown in ("75.0%", "50.0% [15.0, 85.0]", "5.0 + 4.0", "linf 0.1"):
        assert shown in text
    assert "median" not in text


def test_distances_are_shown_where_no_radius_was_given() -> None:
    text = tables.render(Report([cell(eps=None)]), "table")
    assert "median" in text
    assert "over half hold" in text
    assert "linf any size" in text


def test_a_cell_that_failed_stands_in_the_table_as_an_error() -> None:
    failed = cell(status="error", arrays=None, path=None, error="it broke")
    assert "error" in tables.render(Report([failed]), "table")
    assert json.loads(tables.render(Report([failed]), "json"))["cells"][0]["error"] == "it broke"
    assert tables.say_where(Report([failed])) is None


def test_what_holds_for_all_cells_is_said_once() -> None:
    both = Report([cell(status="partial"), cell(status="partial")])
    assert tables.notes(both) == ["Partial: the first 4 samples of data test only."]
    assert tables.notes(Report([cell(status="partial"), cell()]))[0].startswith(
        "none x pgd: Partial"
    )
    assert tables.say_where(both) == "2 records in out/cells"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1:01 min"), (3700, "1:01:40 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'json'"):
        tables.check_format("jsn")
