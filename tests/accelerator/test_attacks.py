"""An attack on an accelerator finds what it finds on a CPU, mixes no devices, and waits for the
device no more than allowed.
"""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.evaluation.prepare import copy_in_eval_mode
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.engine import Engine, Turn
from robustbench_lite.search.slots import Slots
from robustbench_lite.search.task import Task
from robustbench_lite.threat import ThreatModel
from tests.accelerator.pretend import DEVICE, Pretend
from tests.conftest import joined
from tests.contract.test_attacks import CASES, EPS, PARAMS, network, task

#: How often a step of an attack may wait for the device, by looks and by copies of numbers. To be
#: lowered, never raised.
WAITS = {
    "fgsm": 3,
    "pgd": 0,
    "carlini_wagner": 0,
    "boundary": 5,
    "zoo": 3,
    "one_pixel": 0,
    "patch": 0,
    "apgd": 0,
    "ddn": 0,
    "fab": 0,
    "fmn": 0,
    "hop_skip_jump": 6,
    "pdpgd": 0,
    "rays": 0,
    "sigma_zero": 0,
    "sparse_rs": 0,
    "square": 0,
}
ROWS = {"zoo": 8, "one_pixel": 16}
"""Rows of the attacks that take the most steps; of the others 40."""


def search(
    name: str, norm: str, model: DefendedModel, what: Task, device: Pretend | None
) -> tuple[list[Tensor], int]:
    """Which rows are found, and both counts, in order; the most waits of a step."""
    attack, threat = (
        registry.load("attack", name)(**PARAMS.get(name, {})),
        ThreatModel.parse(norm, EPS[norm]),
    )
    engine = Engine(
        attack, Passes(model, 64, fast=True), threat, device="cpu" if device is None else DEVICE
    )
    step, waits = engine._step, [0]

    def counted(slots: Slots) -> Turn:
        before = 0 if device is None else device.waits.count
        stepped = step(slots)
        waits.append(0 if device is None else device.waits.count - before)
        return stepped

    engine._step = counted  # type: ignore[method-assign]
    whole = joined(engine.search(what))
    return [column.cpu() for column in (whole.claimed, whole.forward, whole.backward)], max(waits)


def moved(model: nn.Module) -> DefendedModel:
    return DefendedModel(copy_in_eval_mode(model).to(DEVICE).requires_grad_(False))


@pytest.mark.parametrize(("name", "norm", "goal"), CASES)
def test_an_attack_finds_and_counts_what_it_does_on_a_cpu_and_waits_no_more_than_allowed(
    name: str, norm: str, goal: str, device: Pretend
) -> None:
    model = network()
    what = task(model, goal, rows=ROWS.get(name, 40))
    expected, _ = search(name, norm, DefendedModel(model), what, None)
    found, waits = search(name, norm, moved(model), what, device)
    assert [column.tolist() for column in found] == [column.tolist() for column in expected]
    assert waits <= WAITS[name], (
        device.waits.looks.most_common(8),
        device.waits.copies.most_common(8),
    )


def test_a_defense_that_draws_at_every_call_waits_for_nothing(device: Pretend) -> None:
    model = network()
    what, defense = task(model, "untargeted", rows=12), registry.create("defense", "gaussian_noise")
    expected, _ = search("pgd", "linf", defense.wrap(model), what, None)
    found, waits = search("pgd", "linf", defense.wrap(moved(model).module), what, device)
    assert [column.tolist() for column in found] == [column.tolist() for column in expected]
    assert waits == 0, (device.waits.looks.most_common(8), device.waits.copies.most_common(8))
