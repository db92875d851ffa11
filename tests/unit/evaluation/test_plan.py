"""A dry run lists the cells that a run measures, because both read the same list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustbench_lite.attacks import FGSM, PGD
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation.inputs import dataset_from
from robustbench_lite.evaluation.plan import Plan, foresee
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import subject_from
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, small_network


def crossed() -> Plan:
    network, x = small_network((1, 6, 6)), images(12, (1, 6, 6))
    data = dataset_from((x, network(x).argmax(1)))
    subjects = [
        subject_from(defense, network, "net", data) for defense in ("none", "feature_squeezing")
    ]
    threat = ThreatModel.parse("linf", "0.1")
    return Plan(subjects=subjects, attacks=[FGSM(), PGD(steps=2)], data=data, threat=threat)


def test_a_dry_run_lists_what_a_run_measures_plain_attackers_too(tmp_path: Path) -> None:
    plan, settings = crossed(), Settings(output=tmp_path / "out", plain=True)
    foreseen = foresee(plan, settings)
    assert not (tmp_path / "out").exists()
    cells = run(plan, settings).cells
    assert [cell.path.stem for cell in cells if cell.path] == [
        prospect.key for prospect in foreseen
    ]
    assert [cell.attack for cell in cells] == [prospect.attack for prospect in foreseen]
    assert {prospect.state for prospect in foreseen} == {"to measure"}
    assert {prospect.state for prospect in foresee(plan, settings)} == {"recorded"}
    assert {prospect.state for prospect in foresee(plan, replace(settings, fresh=True))} == {
        "to measure"
    }
    assert any(prospect.attack.endswith(" (plain)") for prospect in foreseen)


def test_an_attack_that_cannot_work_stops_a_dry_run_as_it_stops_a_run() -> None:
    plan = replace(crossed(), threat=ThreatModel.parse("l0", "1"))
    for go in (foresee, run):
        with pytest.raises(UsageError, match="cannot work in l0"):
            go(plan, Settings())


def test_samples_of_the_target_class_are_left_out() -> None:
    plan = crossed()
    label = int(plan.data.y[0])
    targeted = replace(plan, threat=ThreatModel.parse("linf", "0.1", f"class:{label}")).check()
    assert torch.equal(targeted.data.ids, plan.data.ids[plan.data.y != label])
