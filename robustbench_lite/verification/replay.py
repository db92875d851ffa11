"""Ask a model about clean images and their adversarials, side by side.

What is saved of them, and what is checked, comes from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.devices import pick_batch_size, pick_device
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.evaluation.run import targets
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.judge import Finding, Judge
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from robustbench_lite.verification import examples
from robustbench_lite.verification.examples import Adversarials, Context


class Replay(NamedTuple):
    """What the model says of M pairs of images, on the CPU."""

    correct: Tensor
    """It gives the clean image its label, (M,) bool."""
    closeness: Tensor
    """How near to a tie that is, (M,): see ``clean.Clean``."""
    before: Tensor
    """The class it gives the clean image, (M,)."""
    target: Tensor
    """The class that the adversarial has to reach, (M,); -1 for any wrong one."""
    finding: Finding
    """The judge's word on the adversarial."""


class Setup(NamedTuple):
    """The model, ready to be asked."""

    model: DefendedModel
    seed: int
    batch_size: int
    device: torch.device


def gather(
    cell: Cell, subject: Subject, data: Dataset, threat: ThreatModel, settings: Settings
) -> Adversarials:
    """Gather the adversarials of a cell, with what the model says of each.

    It was measured with ``keep_adversarials``.
    """
    if cell.record is None or cell.arrays is None or cell.x_adv is None:
        raise ValueError("The cell was measured without a record, or without keep_adversarials.")
    data = inputs.keep_applicable(data, threat)
    broken = torch.from_numpy(cell.arrays.broken)
    x = data.x[broken]
    y = data.y[broken]
    x_adv = cell.x_adv[broken]
    if not len(x_adv):
        return examples.of_cell(cell.record, cell.arrays, x_adv, Context(x, y, y, y, y))
    setup = set_up(subject, data, settings)
    seen = replay(setup, data.take(broken), x_adv, threat, lambda done: None)
    context = Context(x, y, seen.target, seen.before, seen.finding.label)
    return examples.of_cell(cell.record, cell.arrays, x_adv, context)


def set_up(subject: Subject, data: Dataset, settings: Settings) -> Setup:
    """Prepare the model of ``subject``, and find it fit to be asked."""
    device = pick_device(settings.device)
    prepared = prepare(subject.module, subject.defense, device, settings.outputs)
    model = diagnose(prepared, data.x, data.y, data.classes)
    return Setup(model, settings.seed, pick_batch_size(settings.batch_size, data, device), device)


@exactly
def replay(
    setup: Setup, rows: Dataset, x_adv: Tensor, threat: ThreatModel, on_rows: Callable[[int], None]
) -> Replay:
    """Ask the model about the clean images ``rows`` and their adversarials, a batch at a time."""
    model, seed, batch_size, device = setup
    judge = Judge(Passes(model, batch_size, seed), threat, "verify", device)
    parts = []
    for start in range(0, len(rows), batch_size):
        index = slice(start, start + batch_size)
        part = rows.take(index)
        clean = clean_logits(model, part, batch_size, device, seed)
        target = targets(threat, clean.logits, part, seed)
        finding = judge.examine(x_adv[index], part.x, part.y, target, part.ids)
        parts.append((clean.correct, clean.closeness, clean.logits.argmax(1), target, *finding))
        on_rows(start + len(part))
    correct, closeness, before, target, *finding_columns = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return Replay(correct, closeness, before, target, Finding(*finding_columns))
