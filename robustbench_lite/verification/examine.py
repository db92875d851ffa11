"""Examine saved adversarials anew: of each it is said whether it holds, and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.errors import DataError
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.records.cell import Record
from robustbench_lite.records.provenance import other_torch
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from robustbench_lite.verification.checks import Check, Test, of_geometry, of_images, of_predictions
from robustbench_lite.verification.examples import Adversarials
from robustbench_lite.verification.replay import Replay, Setup, replay, set_up


@dataclass(frozen=True)
class Verification:
    """What became of ``n`` adversarials."""

    record: Record
    """Of the cell that they were saved from."""
    n: int
    checks: list[Check]
    failures: dict[int, list[str]]
    """Data-set index of each that does not hold -> why."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the network and the images that were asked."""

    @property
    def held(self) -> int:
        """How many of the ``n`` hold."""
        return self.n - len(self.failures)


@exactly
def examine_each(
    saved: Adversarials,
    subject: Subject,
    threat: ThreatModel,
    data: Dataset | None,
    settings: Settings,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Verification:
    """Examine every adversarial of ``saved`` anew; none that fails hides another.

    Args:
        subject: the network with its defense, rebuilt from the record (``rebuild.subject_of``).
        threat: what they are held against (``rebuild.threat_of``).
        data: the samples that were attacked (``rebuild.images_of``); without them the clean images
            are believed.
        settings: device, batch size and ``outputs``; the seed is that of the record.
        on_rows: hears how many rows are done.
    """
    record = saved.record
    if not len(saved):
        return Verification(record, 0, [], {})
    rows, here = _clean_rows(saved, data)
    setup = set_up(subject, rows, replace(settings, seed=record.identity.seed))
    seen = replay(setup, rows, saved.x_adv, threat, on_rows)
    predicted = of_predictions(saved, rows, seen, random=setup.model.traits.random)
    near = _near(saved, seen, predicted)
    tests = [
        *of_geometry(saved, threat, seen.finding),
        *([] if saved.context is None else [of_images(rows, here)]),
        *(replace(test, checked=test.checked & ~near.rows) for test in predicted),
    ]
    failures: dict[int, list[str]] = {}
    for row, sample in enumerate(saved.ids.tolist()):
        reasons = [test.reason(row) for test in tests if bool(test.checked[row] & test.failed[row])]
        if reasons:
            failures[sample] = reasons
    notes = (_note(saved, setup, rows, data), near.note)
    counts = [test.counts() for test in tests]
    return Verification(record, len(saved), counts, failures, tuple(filter(None, notes)))


class _Near(NamedTuple):
    """Rows that fail on a margin within rounding, under another torch than saved them."""

    rows: Tensor  # (M,) bool
    note: str | None
    """What is to be said of them."""


def _near(saved: Adversarials, seen: Replay, tests: list[Test]) -> _Near:
    """Find the rows that are not held against the adversarials, among those that fail ``tests``."""
    versions = other_torch(saved.record.provenance)
    closeness = torch.minimum(seen.closeness, seen.finding.closeness)  # (M,)
    fails = torch.stack([test.failed & test.checked for test in tests]).any(0)
    near = fails & (closeness <= TOLERANCE)
    if versions is None or not bool(near.any()):
        return _Near(torch.zeros_like(near), None)
    margin = float(closeness[near].max())
    note = (
        f"Of {int(near.sum()):,} the verdict stands on a margin of {margin:.1g} of the largest "
        f"logit, which is rounding: they were saved under torch {versions.then}, and what "
        f"{versions.now} makes of them is not held against them."
    )
    return _Near(near, note)


def _note(saved: Adversarials, setup: Setup, rows: Dataset, data: Dataset | None) -> str | None:
    """Say so where the network answers otherwise than the one that was attacked.

    Without the data it is asked about the fixed images alone.
    """
    kept = saved.record.behaviour
    named = saved.record.identity.data
    if kept is None:
        return (
            "The record does not say what the network that was attacked answers: it may be another "
            "one."
        )
    whole = data is not None and data.fingerprint == named.fingerprint
    here = ask(setup.model, data if data is not None and whole else rows, setup.device)
    if kept.agrees(here, images=whole):
        return None
    return (
        "The network answers otherwise than the one that was attacked, whose weights are the same: "
        "its code is another."
    )


class _CleanRows(NamedTuple):
    """The M clean images that are shown to the model."""

    rows: Dataset
    here: Dataset | None
    """Those of the data set, if it is here."""


def _clean_rows(saved: Adversarials, data: Dataset | None) -> _CleanRows:
    """Take the clean images as they were saved, or else from the data set."""
    named = saved.record.identity.data
    here = None if data is None else data.take(torch.from_numpy(saved.outcomes.broken))
    if saved.context is not None:
        x = saved.context.x
        y = saved.context.y
        return _CleanRows(Dataset(named.name, named.split, x, y, saved.ids, None, len(y)), here)
    if data is None or here is None or data.fingerprint != named.fingerprint:
        raise DataError(
            f"The clean images lie in the data set alone, and {named.name} ({named.split}) is not "
            f"here as it was measured (fingerprint {named.fingerprint[:16]}...). Name it with "
            "--dataset and --data-dir."
        )
    return _CleanRows(here, here)
