"""Foolbox attacks as a user types them: the command line, the records, and a run that was cut
short.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import robustbench_lite as rbl_package
from robustbench_lite.records.cell import read_record
from tests.end_to_end.conftest import Rbl
from tests.end_to_end.test_kill_and_resume import rows_in_journal

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:foolbox", "ignore::DeprecationWarning:eagerpy"
)


def test_deepfool_is_measured_recorded_and_taken_from_its_record(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    command = [
        "evaluate",
        *own_network,
        "-a",
        "foolbox:L2DeepFoolAttack steps=50",
        "--norm",
        "l2",
        "--eps",
        "none",
    ]
    command += ["--limit", "40", "--format", "json"]
    first = rbl(*command)
    assert first.code == 0, first.err
    (cell,) = json.loads(first.out)["cells"]
    assert cell["attack"] == "foolbox:L2DeepFoolAttack"
    assert cell["robust_accuracy"] == 0
    assert cell["median_distance"] > 0
    assert cell["backward_queries_mean"] > 9  # nine other classes, at least once
    record, arrays = read_record(Path(cell["record"]))
    assert record.identity.attack.parameters["steps"] == 50
    assert arrays.unconfirmed == 0
    assert json.loads(rbl(*command).out)["cells"][0]["digest"] == cell["digest"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show", "foolbox:L2DeepFoolAttack"], "arXiv:1511.04599"),
        (["show", "foolbox:LinfPGD"], "rel_stepsize"),
        (["list", "attacks"], "foolbox:HopSkipJumpAttack"),
    ],
)
def test_show_and_list_know_foolbox_attacks(rbl: Rbl, arguments: list[str], text: str) -> None:
    result = rbl(*arguments)
    assert result.code == 0, result.err
    assert text in result.out


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("foolbox:L2DeepFoolAtack", "Did you mean 'L2DeepFoolAttack'?"),
        ("foolbox:L2DeepFoolAttack", "cannot work in linf"),
        ("foolbox:LinfDeepFoolAttack stepps=5", "Did you mean 'steps'?"),
    ],
)
def test_a_wrong_foolbox_spec_is_a_usage_error(
    rbl: Rbl, own_network: tuple[str, ...], spec: str, text: str
) -> None:
    result = rbl("evaluate", *own_network, "-a", spec)
    assert result.code == 2
    assert text in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "attack",
    ["foolbox:LinfPGD steps=10", "foolbox:LinfRepeatedAdditiveUniformNoiseAttack repeats=20"],
)
def test_an_interrupted_run_ends_with_the_record_of_a_whole_one(
    network: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path, attack: str
) -> None:
    settings: dict[str, Any] = {"norm": "linf", "eps": 0.05, "batch_size": 8}
    whole = (
        rbl_package.evaluate(network, batch, attack, **{**settings, "batch_size": 64})
        .cells[0]
        .record
    )

    def stop(progress: object) -> None:
        if rows_in_journal(tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rbl_package.evaluate(network, batch, attack, output=tmp_path, on_progress=stop, **settings)
    known: list[float] = []
    resumed = (
        rbl_package.evaluate(
            network,
            batch,
            attack,
            output=tmp_path,
            on_progress=lambda p: known.append(p.rows),
            **settings,
        )
        .cells[0]
        .record
    )
    assert 8 <= known[0] < 60, "nothing, or all, was taken over from the interrupted run"
    assert whole is not None
    assert resumed is not None
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("budget", ["steps=0", "steps=-3", "restarts=0"])
def test_a_budget_of_nothing_is_refused(rbl: Rbl, budget: str) -> None:
    result = rbl("evaluate", "-a", f"foolbox:LinfPGD {budget}", "--limit", "5")
    assert result.code == 2
    assert "at least 1" in result.err
